"""The router: what makes the split true on live traffic, and says who was answered by which arm.

`snapshot` turns splits into Envoy's resources (pure), `server` gives them to every connected Envoy,
`envoy` keeps one Envoy alive on this machine, `access_log` turns its log into exposures.
"""
