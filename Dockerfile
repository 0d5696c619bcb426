# The commands in a container. On the CPU:
#
#   docker build -t yolor_d2 .
#   docker run --rm -v "$PWD":/work yolor_d2 train --config-file quick/fast_start.yaml \
#       --train train.json images/ --val val.json images/ OUTPUT_DIR output/mine
#
# With CUDA (torch from PyPI brings its libraries; nvidia-container-toolkit on the host):
#
#   docker build -t yolor_d2 --build-arg PIP_EXTRA_INDEX_URL= .
#   docker run --rm --gpus all --ipc=host -v "$PWD":/work yolor_d2 train ...
FROM python:3.12-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ git \
    && rm -rf /var/lib/apt/lists/*

# Read by pip: the CPU build of torch, without 4 GB of GPU libraries.
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
ARG PIP_NO_CACHE_DIR=1
WORKDIR /opt/yolor_d2

# Dependencies first: they change less often than the code, and Detectron2 takes minutes to compile.
COPY constraints.txt ./
RUN pip install -c constraints.txt setuptools wheel ninja torch torchvision
# Without Detectron2, or if it does not compile, the built-in runtime is used.
ARG DETECTRON2=1
RUN test "$DETECTRON2" = 0 || pip install -c constraints.txt --no-build-isolation \
        'git+https://github.com/facebookresearch/detectron2@02b5c4e295e990042a714712c21dc79b731e8833' \
    || echo "Detectron2 could not be installed: the built-in runtime is used."

COPY . .
RUN pip install -c constraints.txt --no-build-isolation '.[wavelets,export,video,track]' \
    && pip install -c constraints.txt --no-deps trackers

WORKDIR /work
ENTRYPOINT ["yolor-d2"]
CMD ["--help"]
