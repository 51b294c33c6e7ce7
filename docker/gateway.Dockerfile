# The hospital side: listener, sweeper, admin page, migrations, the `lentigo` command. No torch.
#   docker build -f docker/gateway.Dockerfile -t lentigo-gateway:0.1.0 .
# Pin the base by digest where your registry mirror gives one:
#   docker buildx imagetools inspect python:3.11.14-slim-bookworm
FROM python:3.11.14-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/lentigo && /opt/lentigo/bin/pip install setuptools==80.9.0
WORKDIR /build
COPY constraints.txt ./
COPY docker/gateway-requirements.txt docker/
RUN /opt/lentigo/bin/pip install -c constraints.txt -r docker/gateway-requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
RUN /opt/lentigo/bin/pip install --no-deps --no-build-isolation . \
    && /opt/lentigo/bin/pip uninstall -y setuptools

FROM python:3.11.14-slim-bookworm
ENV PATH=/opt/lentigo/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp LENTIGO_HOME=/var/lib/lentigo LENTIGO_CACHE_FOLDER=/tmp \
    LENTIGO_LISTENER_BIND=0.0.0.0 LENTIGO_DASHBOARD_BIND=0.0.0.0
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin lentigo \
    && install -d -m 0700 -o lentigo -g lentigo /var/lib/lentigo
COPY --from=build /opt/lentigo /opt/lentigo
COPY LICENSE /usr/share/doc/lentigo/LICENSE
USER 10001:10001
WORKDIR /var/lib/lentigo
VOLUME /var/lib/lentigo
EXPOSE 11112 8042
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 \
    CMD ["lentigo", "health", "listener"]
ENTRYPOINT ["python", "-m", "gateway"]
CMD ["listen"]
