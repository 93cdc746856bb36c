#!/usr/bin/env bash
# Builds every Rust task of tasks/ and every test guest of tests/guests/ as a component, and copies them to
# .build/tasks and .build/guests. Cargo decides what is up to date.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
target=wasm32-wasip2
: "${CARGO_TARGET_DIR:=$root/target}"
export CARGO_TARGET_DIR
shopt -s nullglob

# The package names of the crates in a folder, one per line.
packages() {
    local manifest
    for manifest in "$1"/*/Cargo.toml; do
        sed -n '/^\[package\]/,/^\[[^p]/ s/^name *= *"\(.*\)".*/\1/p' "$manifest"
    done
}

selected=()
for package in $(packages tasks) $(packages tests/guests); do selected+=(-p "$package"); done
[ ${#selected[@]} -gt 0 ] || { echo "guests: no crate in tasks/ or tests/guests/" >&2; exit 1; }

# Cargo does not notice when the target's std was replaced, and then fails with odd "cannot find" errors.
libdir=$(rustc --print target-libdir --target "$target")
std=$(stat -c '%n %Y' "$libdir"/libstd-*.rlib)
stamp="$CARGO_TARGET_DIR/$target/std-of-guests"
if [ -e "$stamp" ] && [ "$(<"$stamp")" != "$std" ]; then rm -rf "${CARGO_TARGET_DIR:?}/$target"; fi
mkdir -p "$(dirname "$stamp")"
echo "$std" >"$stamp"

cargo build --profile guest --target "$target" "${selected[@]}"

# Replaces what is there only where it changed, in one step: a worker may be reading the folder.
publish() {
    local folder=$1 built name file
    shift
    mkdir -p "$folder"
    for name in "$@"; do
        built="$CARGO_TARGET_DIR/$target/guest/${name//-/_}.wasm"
        file="$folder/$(basename "$built")"
        cmp -s "$built" "$file" && continue
        cp "$built" "$file.new"
        mv "$file.new" "$file"
    done
    for file in "$folder"/*.wasm; do
        name=$(basename "$file" .wasm)
        [[ " ${*//-/_} " == *" $name "* ]] || rm -f "$file"
    done
}
publish .build/tasks $(packages tasks)
publish .build/guests $(packages tests/guests)
