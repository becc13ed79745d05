# Two images of one recipe; data is mounted at /walks:
#
#     docker build --target cpu  -t wtours:cpu .
#     docker build --target cuda -t wtours .
#     docker run --rm -v "$PWD:/walks" wtours:cpu demo
#     docker run --rm --gpus all --shm-size 8g -v "$PWD:/walks" wtours pretrain venice_30
#
# torch's CUDA libraries come in its wheels, so that only the driver has to be on the host.

FROM python:3.12-slim-bookworm AS base
# YouTube's pages need a JavaScript runtime.
COPY --from=denoland/deno:bin-2.5.6 /deno /usr/local/bin/deno
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1 \
    WTOURS_ROOT=/walks/data HOME=/tmp
WORKDIR /opt/wtours
COPY pyproject.toml hatch_build.py constraints.txt README.md LICENSE ./
COPY manifests manifests
COPY wtours wtours
COPY training training

FROM base AS cpu
RUN pip install --extra-index-url https://download.pytorch.org/whl/cpu -c constraints.txt ".[all]"
USER 1000:1000
WORKDIR /walks
ENTRYPOINT ["wtours"]
CMD ["--help"]

FROM base AS cuda
RUN pip install -c constraints.txt ".[all]"
USER 1000:1000
WORKDIR /walks
ENTRYPOINT ["wtours"]
CMD ["--help"]
