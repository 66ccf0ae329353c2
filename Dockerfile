# The service in an image of its own: docs/deployment.md says how to build and run it.
#
# PYTHON_IMAGE may be any image with Python 3.11 or newer and its venv module. Pin it by digest for a
# build that gives the same image each time: python:3.13-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /srv
COPY requirements/serve.txt requirements/serve.txt
# Wheels only, each with the hash that the lock names: no compiler is needed, and none is left.
RUN python3 -m venv --without-pip venv \
    && python3 -m venv /tmp/pip \
    && /tmp/pip/bin/python -m pip --python venv/bin/python install --quiet --no-compile \
        --only-binary :all: --require-hashes --requirement requirements/serve.txt
COPY stream_service stream_service
COPY docs stream_service/docs
COPY client/stream-client.js client/stream-client.tv.js /tmp/
# The player client is a link to where its npm package has it: here it becomes a file. And byte code
# that does not depend on the time of the build, for a file system that cannot be written.
RUN mv --force /tmp/stream-client.js /tmp/stream-client.tv.js stream_service/pages/static/ \
    && venv/bin/python -m compileall -q --invalidation-mode unchecked-hash venv/lib stream_service

FROM ${PYTHON_IMAGE}
# The same folder as above: a virtual environment names its own path.
WORKDIR /srv
COPY --from=build /srv/venv venv
COPY --from=build /srv/stream_service stream_service
ENV HOST=0.0.0.0 PORT=3001 DRAIN_SECONDS=5 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65534:65534
EXPOSE 3001
# The process alone: a restart does not bring a database back. Ask /health where readiness is wanted.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["/srv/venv/bin/python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/health/live', timeout=2)"]
STOPSIGNAL SIGTERM
# As a list: signals reach the service itself.
ENTRYPOINT ["/srv/venv/bin/python", "-m", "stream_service"]
