# Triton with what our models import in its Python backend; the same image on a GPU and on a CPU.
#   docker build -f docker/triton.Dockerfile -t lentigo-triton:0.1.0 .
# torch comes with CUDA from pip's own index; without a GPU a much smaller one will do:
#   --build-arg TORCH_INDEX=URL, the index of CPU wheels that PyTorch's installation page names
# The weights of triton_repo/ carry the terms of their data (CC BY-NC 4.0 for `diagnosis`): think
# before an image that holds them is published.
FROM nvcr.io/nvidia/tritonserver:25.03-py3
ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_BREAK_SYSTEM_PACKAGES=1 \
    PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
WORKDIR /build
COPY constraints.txt ./
COPY docker/triton-requirements.txt docker/
RUN python3 -m pip install setuptools==80.9.0 \
    && python3 -m pip install -c constraints.txt \
       ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r docker/triton-requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY models models
RUN python3 -m pip install --no-deps --no-build-isolation .
COPY docker/watch-triton /usr/local/bin/watch-triton
COPY triton_repo /models
# The account that the base image brings; no model may write anything.
USER 1000:1000
WORKDIR /tmp
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=15s --timeout=10s --start-period=180s --retries=4 \
    CMD ["curl", "--fail", "--silent", "http://127.0.0.1:8000/v2/health/ready"]
# Explicit control: a new version goes into service when it is told to, not when a file appears.
CMD ["watch-triton", "tritonserver", "--model-repository=/models", "--model-control-mode=explicit", \
     "--load-model=*", "--exit-timeout-secs=30"]
