#!/usr/bin/env bash
# Fuzzes the decoders: run.sh [SECONDS [TARGET…]]; 600 seconds each of all targets by default. The first finding ends
# it; the input is then in artifacts/. Needs cargo-fuzz and a C++ compiler, and no nightly Rust.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
seconds=${1:-600}
shift || true
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    targets=(compression envelope iso8601 json msgpack parameters pickle record request result screen signed
        state_db yaml)
fi

if ! command -v cargo-fuzz >/dev/null; then
    printf 'fuzz: cargo-fuzz is missing; please run: cargo install cargo-fuzz\n' >&2
    exit 1
fi
python3 "$here/corpus.py" "$here/../cases/wire" "$here/corpus"

# Instrumentation needs an option that only nightly Rust has by itself; sanitizers are of no use in safe code.
export RUSTC_BOOTSTRAP=1
cd "$here"
cargo fuzz build --fuzz-dir . --sanitizer none
for target in "${targets[@]}"; do
    printf 'fuzz: %s for %s seconds\n' "$target" "$seconds" >&2
    cargo fuzz run --fuzz-dir . --sanitizer none "$target" -- \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1
done
