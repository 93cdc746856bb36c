#!/usr/bin/env bash
# Makes `cargo build --target wasm32-wasip2` work, in the first of these ways that does:
#   1. the target is there already;
#   2. `rustup target add`;
#   3. std is built once from Debian's `rust-src` of exactly this compiler's version, with Debian's `wasi-libc`.
# The third way takes half a minute. It reads the Debian mirror out of this machine's apt configuration (or DEBIAN_MIRROR),
# lets apt verify the packages in a private folder, and adds no apt source and no package to the system.
set -euo pipefail

target=wasm32-wasip2
root=$(cd "$(dirname "$0")/../.." && pwd)
suites="trixie-backports forky sid"

say() { printf 'wasm target: %s\n' "$*" >&2; }
stop() { say "$*"; exit 1; }

command -v rustc >/dev/null && command -v cargo >/dev/null ||
    stop "Rust is missing; install it as https://rustup.rs describes, then run this again."

libdir=$(rustc --print target-libdir --target "$target" 2>/dev/null) ||
    stop "this rustc ($(rustc --version)) does not know $target; celerybox needs Rust 1.95 or newer (rustup update)."
rustlib=$(dirname "$(dirname "$libdir")")

# What this script built itself carries the version it was built for: `rustup update` leaves it behind, useless.
stamp="$rustlib/$target/built-from-source-for"
installed() {
    compgen -G "$libdir/libstd-*.rlib" >/dev/null && { [ ! -e "$stamp" ] || [ "$(<"$stamp")" = "$(rustc -vV)" ]; }
}
installed && exit 0

# One installer at a time in this toolchain; the folder itself is the lock, so that no file is left behind.
[ -w "$rustlib" ] || stop "$target is missing and $rustlib is not writable; install Rust with rustup for this user, or run \`rustup target add $target\` as the toolchain's owner."
exec 9<"$rustlib"
if command -v flock >/dev/null; then flock 9; fi
installed && exit 0

if command -v rustup >/dev/null; then
    say "rustup target add $target"
    rustup_log=$(rustup target add "$target" 2>&1) && installed && exit 0
    say "rustup could not add it ($(grep -m1 -i error <<<"$rustup_log" || echo "it belongs to another toolchain")); building std from Debian's source instead"
fi

version=$(rustc --version | cut -d' ' -f2)
host=$(rustc -vV | sed -n 's/^host: //p')
advice="run \`rustup target add $target\` where rustup's server can be reached, or name a Debian mirror in DEBIAN_MIRROR"
for tool in apt-get dpkg; do
    command -v "$tool" >/dev/null || stop "$target is missing, rustup could not add it and this is not a Debian or Ubuntu machine; $advice."
done
[ -e "$rustlib/$host/bin/wasm-component-ld" ] ||
    stop "$target is missing, rustup could not add it and this toolchain has no wasm-component-ld; $advice."

mkdir -p "$root/.build"
work=$(mktemp -d "$root/.build/wasm-std.XXXXXX")
staged=""
linked=""
clean() {
    rm -rf "$work"
    [ -z "$staged" ] || rm -rf "$staged"
    [ -z "$linked" ] || rm -f "$linked"
}
trap clean EXIT
trap 'exit 130' INT TERM

# The URIs of every enabled `deb` source with a `main` component, whichever of apt's two formats it is written in.
# Each line: the URI and, where the source names one, the keyring that signs it.
mirrors() {
    [ -z "${DEBIAN_MIRROR:-}" ] || echo "$DEBIAN_MIRROR"
    shopt -s nullglob
    local file
    for file in /etc/apt/sources.list.d/*.sources; do
        awk 'function flush(  i, n, list) {
                 if (types ~ /(^| )deb( |$)/ && enabled !~ /^(no|false|0)$/ && components ~ /(^| )main( |$)/) {
                     n = split(uris, list, " ")
                     for (i = 1; i <= n; i++) print list[i], (key ~ /^\//) ? key : ""
                 }
                 types = uris = components = enabled = key = ""
             }
             /^#/ { next }
             /^[ \t]*$/ { flush(); next }
             { field = tolower($1); value = $0; sub(/^[^:]*:[ \t]*/, "", value) }
             field == "types:" { types = value }
             field == "uris:" { uris = value }
             field == "components:" { components = value }
             field == "enabled:" { enabled = tolower(value) }
             field == "signed-by:" { key = value }
             END { flush() }' "$file"
    done
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -f "$file" ] || continue
        awk '$1 == "deb" && / main( |$)/ {
                 key = ""
                 if (match($0, /signed-by=[^] ]+/)) key = substr($0, RSTART + 10, RLENGTH - 10)
                 sub(/^deb[ \t]+(\[[^]]*\][ \t]*)?/, "")
                 print $1, key
             }' "$file"
    done
}

# apt with a folder of its own: nothing of the system's apt is written, and it needs no root.
private_apt() {
    apt-get -q \
        -o Dir::Etc::SourceList="$work/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
        -o Dir::State="$work/apt/state" -o Dir::State::status=/var/lib/dpkg/status \
        -o Dir::Cache="$work/apt/cache" -o APT::Sandbox::User=root -o APT::Get::List-Cleanup=false \
        -o APT::Update::Post-Invoke::= -o Acquire::Languages=none -o Acquire::Retries=2 "$@"
}

# Fetches `package` of the version that `pattern` matches into $work, from the first mirror and suite that has it.
fetch() {
    local package=$1 pattern=$2 uri key suite found
    while read -r uri key; do
        for suite in $suites; do
            rm -rf "$work/apt"
            mkdir -p "$work/apt/state/lists/partial" "$work/apt/cache/archives/partial"
            echo "deb ${key:+[signed-by=$key] }$uri $suite main" >"$work/apt/sources.list"
            private_apt update >"$work/apt/log" 2>&1 || true
            found=$(apt-cache -o Dir::Etc::SourceList="$work/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
                -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
                -o Dir::State="$work/apt/state" -o Dir::State::status=/dev/null -o Dir::Cache="$work/apt/cache" \
                madison "$package" 2>/dev/null | awk '{ print $3 }' | grep -E -m1 "$pattern") || continue
            say "downloading $package $found ($suite)"
            (cd "$work" && private_apt download "$package=$found") >&2 && return 0
        done
    done < <(mirrors | awk '!seen[$1]++')
    return 1
}

# Debian writes 1.95.0+dfsg1-1~bpo13+1: the version, then anything that is not one more digit or part.
source_dir="$rustlib/src/rust"
if [ -L "$source_dir" ] && [ ! -e "$source_dir" ]; then rm -f "$source_dir"; fi
if [ ! -f "$source_dir/library/Cargo.lock" ]; then
    fetch rust-src "^${version//./\\.}([^0-9.]|\$)" ||
        stop "$target is missing: rustup could not add it, and no suite ($suites) of the configured Debian mirror has rust-src $version; $advice."
    mkdir "$work/rust-src"
    dpkg -x "$work"/rust-src_*.deb "$work/rust-src"
    library=$(compgen -G "$work/rust-src/usr/src/rustc-*/library") || stop "Debian's rust-src $version has no library folder; $advice."
    mkdir -p "$rustlib/src"
    ln -s "$(dirname "$library")" "$source_dir"
    linked=$source_dir
fi
fetch wasi-libc '^0\.0~git202[4-9]|^[1-9]|^0\.0~git20[3-9]' ||
    stop "$target is missing: rustup could not add it, and the configured Debian mirror has no wasi-libc with $target; $advice."
mkdir "$work/wasi-libc"
dpkg -x "$work"/wasi-libc_*.deb "$work/wasi-libc"

say "building std $version for $target"
mkdir -p "$work/std/src"
touch "$work/std/src/lib.rs"
cat >"$work/std/Cargo.toml" <<TOML
[package]
name = "only-std"
version = "0.0.0"
edition = "2021"
[workspace]
TOML
# Bitcode in the rlibs is what lets a guest link with `lto = true`.
(cd "$work/std" && env -u CARGO_ENCODED_RUSTFLAGS -u CARGO_BUILD_TARGET -u RUSTC_WRAPPER \
    RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Cembed-bitcode=yes CARGO_TARGET_DIR="$work/target" \
    cargo build --release -Zbuild-std=std,panic_abort --target "$target") >&2 ||
    stop "std for $target could not be built from Debian's rust-src $version (see above); $advice."

# Filled beside its place and moved there whole: a target is either complete or absent.
staged=$(mktemp -d "$rustlib/.$target.XXXXXX")
chmod 755 "$staged"
mkdir -p "$staged/lib/self-contained"
for rlib in "$work/target/$target/release/deps"/*.rlib; do
    case $rlib in */libonly_std-*) ;; *) cp "$rlib" "$staged/lib/" ;; esac
done
cp "$work/wasi-libc/usr/lib/$target"/{libc.a,crt1-command.o,crt1-reactor.o} "$staged/lib/self-contained/"
compgen -G "$staged/lib/libstd-*.rlib" >/dev/null || stop "the build of std for $target left no libstd; $advice."
rustc -vV >"$staged/$(basename "$stamp")"
rm -rf "${rustlib:?}/$target"
mv "$staged" "$rustlib/$target"
staged=""
say "$target is ready"
