# Understudy's image: controller, and what ships the exposures of a router (`understudy ship`).
#
#   docker build -t registry.example.org/understudy:0.2.0 .
#   docker build --build-arg PYTHON=docker.io/library/python:3.11.14-slim-bookworm@sha256:… …
#
# Everything that is installed is pinned with hashes: docker/*.lock, renewed by `make lock`. There is
# no HEALTHCHECK, because Kubernetes ignores it and asks /healthz itself; and no init, because the
# process handles its signals and is nobody's parent in a cluster.
ARG PYTHON=docker.io/library/python:3.11.14-slim-bookworm

FROM ${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv --without-pip /opt/understudy
WORKDIR /src
COPY docker/serve.lock docker/build.lock docker/
RUN pip --python /opt/understudy/bin/python install --require-hashes --only-binary :all: -r docker/serve.lock
RUN pip install --require-hashes --only-binary :all: -r docker/build.lock
COPY pyproject.toml README.md LICENSE ./
COPY controller controller
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .
RUN pip --python /opt/understudy/bin/python install --no-deps --no-index /wheels/understudy-*.whl
RUN /opt/understudy/bin/python -m compileall -q -j 0 /opt/understudy/lib

FROM ${PYTHON}
LABEL org.opencontainers.image.title="understudy" \
      org.opencontainers.image.description="Online model evaluation and rollout controller" \
      org.opencontainers.image.licenses="Apache-2.0"
# Nothing can be installed into a running container, also not by who breaks in.
RUN python -m pip uninstall --quiet --yes --root-user-action ignore setuptools wheel pip \
 && rm -rf /usr/local/lib/python3.*/ensurepip \
 && groupadd --gid 65532 understudy \
 && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin understudy \
 && install --directory --owner 65532 --group 65532 --mode 0750 /var/lib/understudy
COPY --from=build /opt/understudy /opt/understudy
ENV PATH=/opt/understudy/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    UNDERSTUDY_STATE=/var/lib/understudy
USER 65532:65532
WORKDIR /var/lib/understudy
VOLUME /var/lib/understudy
EXPOSE 8080 8800 18000
ENTRYPOINT ["understudy"]
CMD ["serve"]
