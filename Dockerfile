# docker build -t mhmoe . && docker run --rm -v "$PWD:/work" mhmoe train recipe.yaml
FROM debian:bookworm-slim AS build
# git: `mhmoe --version` names the commit
RUN apt-get update && apt-get install -y --no-install-recommends make git && git config --system safe.directory /mhmoe
COPY . /mhmoe
RUN make -C /mhmoe package

# The package names the libraries that it needs.
FROM debian:bookworm-slim
COPY --from=build /mhmoe/build-package/mhmoe_*.deb /tmp/mhmoe.deb
RUN apt-get update && apt-get install -y --no-install-recommends /tmp/mhmoe.deb && rm -r /tmp/mhmoe.deb /var/lib/apt/lists/*
WORKDIR /work
ENTRYPOINT ["mhmoe"]
