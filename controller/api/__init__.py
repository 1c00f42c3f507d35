"""What people and programs touch over HTTP: contract 4.4, and the dashboard that reads it.

The room decides nothing. It turns bytes into calls of a `Backend` (see `backend`) and answers into
JSON, so it runs the same on the controller and on the plain in-memory class of its tests.

    app           puts the parts together: middleware, routes, lifespan
    backend       what the room needs of the controller
    reports       the shapes of what is answered of a model; `schemas`: those of other answers;
                  `bodies`: those of what is sent: the OpenAPI document is made of them all
    explanations  the shapes of an explanation
    routes        models, decisions, candidates, operator commands
    events        POST /v1/events: bytes -> durable events
    live          GET /v1/stream: every new report, as server-sent events
    metrics       GET /metrics: reports as Prometheus families, at scrape time
    probes        /healthz, /readyz
    pages         the dashboard's files
    guard         who may not come in: foreign web pages, huge bodies
    pressure      how much is taken in at the same time; `connections`: how many there may be
    problems      every error as an RFC 9457 document
    serving       the uvicorn server, with streams that end when it does
"""
