#!/bin/sh
# Compiles the draft's array configuration for Phoenix and Hawk Point: kernels/build/draft_array.xclbin,
# insts.bin and the manifest. Needs mlir-aie (aiecc, the Python package aie) and Peano (llvm-aie).
# Never run on a device so far: see kernels/README.md.
set -eu

MLIR_AIE_VERSION=1.2.0
folder=$(cd "$(dirname "$0")" && pwd)
build=$folder/build

fail() {
    printf '%s\n' "kernels/build.sh: $1" \
        "install mlir_aie $MLIR_AIE_VERSION and llvm-aie (Peano) from their GitHub releases, not from PyPI:" \
        "  pip install mlir_aie==v$MLIR_AIE_VERSION -f https://github.com/Xilinx/mlir-aie/releases/expanded_assets/v$MLIR_AIE_VERSION" \
        "  pip install llvm-aie -f https://github.com/Xilinx/llvm-aie/releases/expanded_assets/nightly" \
        "then set PEANO_INSTALL_DIR to the installed llvm-aie folder and run this again" >&2
    exit 1
}

python=${PYTHON:-python3}
[ -n "${PEANO_INSTALL_DIR:-}" ] || fail "PEANO_INSTALL_DIR is not set: Peano compiles the kernels"
clang=$PEANO_INSTALL_DIR/bin/clang++
[ -x "$clang" ] || fail "found no compiler at $clang"
"$python" -c 'import aie.iron' 2>/dev/null || fail "$python has no package mlir_aie (import aie.iron)"
aie=$("$python" -c 'import os, aie; print(os.path.dirname(os.path.dirname(list(aie.__path__)[0])))')
[ -d "$aie/include" ] || fail "found no aie_api headers in $aie/include"
aiecc=$(command -v aiecc || command -v aiecc.py) || fail "found no aiecc"

mkdir -p "$build"
cd "$build"
for source in "$folder"/aie2/*.cc; do
    "$clang" "$source" -c -o "$(basename "$source" .cc).part.o" -I"$aie/include" -std=c++20 -O2 -DNDEBUG \
        -D__AIE_API_AIE_ADF_HPP__ --target=aie2-none-unknown-elf \
        -Wno-parentheses -Wno-attributes -Wno-macro-redefined -Wno-empty-body
done
link() { # program, kernels: the files named in draft_array.PROGRAMS
    program=$1
    shift
    parts=""
    for kernel in "$@"; do parts="$parts $kernel.part.o"; done
    # shellcheck disable=SC2086
    "$PEANO_INSTALL_DIR/bin/ld.lld" -r -o "$program" $parts
}
link gemv_core.o gemv_core gemv_w4a8 head_top_k
link vector_core.o gemv_core gemv_w4a8 head_top_k vector_core rms_norm_quantize rope attention_decode \
    geglu_quantize residual_add

"$python" "$folder/designs/draft_array.py" >draft_array.mlir
case $aiecc in
    *.py) set -- --aie-generate-xclbin --aie-generate-npu-insts --no-xchesscc --no-xbridge --no-compile-host ;;
    *) set -- --peano="$PEANO_INSTALL_DIR" --get-xclbin --get-npu-insts ;;
esac
# how many objects a worker takes is only known as it runs
"$aiecc" "$@" --dynamic-objFifos --xclbin-name=draft_array.xclbin --npu-insts-name=insts.bin --tmpdir=draft_array.prj draft_array.mlir
"$python" "$folder/designs/write_manifest.py" --build "$build"
printf '%s\n' "wrote $build/draft_array.xclbin and draft_array.json"
