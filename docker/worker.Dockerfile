# One worker group: routes, runs analyses, encodes, delivers. It asks Triton, so no torch.
#   docker build -f docker/worker.Dockerfile -t lentigo-worker:0.1.0 .
FROM python:3.11.14-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/lentigo && /opt/lentigo/bin/pip install setuptools==80.9.0
WORKDIR /build
COPY constraints.txt ./
COPY docker/gateway-requirements.txt docker/worker-requirements.txt docker/
RUN /opt/lentigo/bin/pip install -c constraints.txt -r docker/worker-requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY models models
COPY reports reports
COPY workers workers
RUN /opt/lentigo/bin/pip install --no-deps --no-build-isolation . \
    && /opt/lentigo/bin/pip uninstall -y setuptools

FROM python:3.11.14-slim-bookworm
ENV PATH=/opt/lentigo/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp LENTIGO_HOME=/var/lib/lentigo LENTIGO_CACHE_FOLDER=/tmp LENTIGO_WORKER_LANE=all
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin lentigo \
    && install -d -m 0700 -o lentigo -g lentigo /var/lib/lentigo
COPY --from=build /opt/lentigo /opt/lentigo
COPY LICENSE /usr/share/doc/lentigo/LICENSE
USER 10001:10001
WORKDIR /var/lib/lentigo
VOLUME /var/lib/lentigo
# Two minutes to finish what runs; what does not finish is taken up when its lease ends.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s --retries=3 \
    CMD ["sh", "-c", "exec lentigo health workers-$LENTIGO_WORKER_LANE"]
ENTRYPOINT ["python", "-m", "workers"]
