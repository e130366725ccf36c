#!/bin/sh
# make gpu-wheels: fills wheels/ (ignored by git, below 64 MiB) with the packages that `make gpu` needs on a bare machine with Linux on x86-64,
# Python 3.12, torch, transformers and their usual companions. Versions are those of requirements.txt.
set -eu
cd "$(dirname "$0")/.."
names="deepspeed hjson py-cpuinfo msgpack pydantic pydantic-core annotated-types typing-inspection trl datasets dill multiprocess xxhash"
version() { awk -F'[= ;]+' -v name="$1" '$1 == name { print $2; exit }' requirements.txt; }
rm -rf wheels
mkdir wheels
set --
for name in $names; do
    number=$(version "$name")
    [ "$name" = deepspeed ] || set -- "$@" "$name${number:+==$number}"
done
.venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --dest wheels "$@" liger-kernel
# DeepSpeed is published as source; without its operators, which are compiled where one is used, its wheel fits every machine.
DS_BUILD_OPS=0 .venv/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir wheels \
    "deepspeed==$(version deepspeed)"
size=$(du -sm wheels | cut -f1)
[ "$size" -lt 64 ] || { echo "make gpu-wheels: wheels/ takes $size MiB, more than the 64 that it may" >&2; exit 1; }
echo "make gpu-wheels: $(ls wheels | wc -l) wheels, $size MiB"
