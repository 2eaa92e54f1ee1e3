# syntax=docker/dockerfile:1
# The image of operator and sidecar: Node, its libraries, two bundles, and nothing else; no shell, no package manager.
# The operator's Deployment gives `operator/main.js` as argument and runs as 65532; the injected sidecar gives none and runs as 107.
#
#   docker build --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) --build-arg REVISION=$(git rev-parse HEAD) -t … .
#
# The same tree and the same Debian packages make the same bytes. For a build that others can repeat name the base by its digest
# (--build-arg DEBIAN=debian@sha256:…, as `docker buildx imagetools inspect debian:trixie-slim` tells it), and let BuildKit rewrite the layers' times (--output type=image,rewrite-timestamp=true).
#
# What goes into it is assembled by hack/ship/image-rootfs.ts, which the tests run too (test/ship/image.ship.test.ts).
ARG DEBIAN=debian:trixie-slim
FROM ${DEBIAN} AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libatomic1 libstdc++6 npm \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# The Node that runs in the image is an npm package of package.json, pinned like the others.
COPY package.json package-lock.json ./
RUN npm install --no-audit --no-fund --loglevel=error
COPY . .
ARG SOURCE_DATE_EPOCH=0
RUN SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH node_modules/.bin/node hack/ship/image-rootfs.ts /rootfs

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="nas-aware-migration" \
      org.opencontainers.image.description="Live migration for KubeVirt that pulls the guest's page cache from the NAS" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /rootfs /
WORKDIR /app
# Threads for reads of the NAS (sidecar/nas/read-threads.ts), and memory of a migration that goes back to the kernel when it is over.
ENV NODE_ENV=production \
    UV_THREADPOOL_SIZE=64 \
    MALLOC_ARENA_MAX=2 \
    MALLOC_MMAP_THRESHOLD_=8192 \
    MALLOC_TRIM_THRESHOLD_=32768 \
    MALLOC_TOP_PAD_=16384
USER 65532:65532
ENTRYPOINT ["/usr/bin/node"]
# A young generation that is small, but not so small that it is collected for every batch. The heap itself stays below 32 MB; its limit is
# also what V8 measures buffers by, and with less it collects all the time. What bounds a sidecar's memory is in docs/limits.md.
CMD ["--expose-gc", "--max-semi-space-size=4", "--max-old-space-size=512", "sidecar/main.js"]
