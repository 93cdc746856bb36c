#!/usr/bin/env bash
# Python environments with real Celery: .build/venv as requirements.txt says, and beside it one for each line of old clients
# (requirements-4.4.txt, requirements-5.2.txt), and one with Flower (requirements-flower.txt). .build/venv-suite runs
# Celery's own tests, whose source package is unpacked inside of it, unchanged. `python.sh 5.4` makes .build/venv-5.4, too.
# Quick when they are there already.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
names=(venv venv-4.4 venv-5.2 venv-flower venv-suite "${@/#/venv-}")

say() { printf 'python: %s\n' "$*" >&2; }

requirements_of() { printf '%s/requirements%s.txt' "$here" "${1#venv}"; }

ready() { cmp -s "$(requirements_of "$1")" "$root/.build/$1/requirements.txt" && "$root/.build/$1/bin/python" -c '' 2>/dev/null; }
all_ready() { for name in "${names[@]}"; do ready "$name" || return 1; done; }
all_ready && exit 0

mkdir -p "$root/.build"
exec 9<"$root/.build"
if command -v flock >/dev/null; then flock 9; fi
all_ready && exit 0

if ! command -v python3 >/dev/null || ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    # Debian splits both modules off into a package of their own; an environment without pip is no use here.
    if command -v virtualenv >/dev/null; then
        :
    elif [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        say "installing python3-venv"
        export DEBIAN_FRONTEND=noninteractive
        apt-get -q update >&2
        apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends python3 python3-venv >&2 || {
            say "apt-get could not install python3-venv (see above); please install it by hand."
            exit 1
        }
    else
        say "the tests need Python 3 with its venv module; please run: sudo apt-get install python3-venv"
        exit 1
    fi
fi
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    say "Celery 5.7 needs Python 3.10 or newer; this is $(python3 --version)."
    exit 1
}

make_environment() {
    local venv="$root/.build/$1" requirements
    requirements=$(requirements_of "$1")
    say "creating .build/$1"
    rm -rf "$venv"
    if python3 -c 'import ensurepip, venv' 2>/dev/null; then
        python3 -m venv "$venv"
    else
        virtualenv -q "$venv"
    fi
    say "installing $(grep -v '^#' "$requirements" | xargs)"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-input -r "$requirements" >&2 || {
        say "pip could not install the packages of $requirements (see above)."
        exit 1
    }
    if [ "$1" = venv-suite ]; then
        "$venv/bin/python" -m pip download -q --disable-pip-version-check --no-input --no-deps --no-binary celery \
            -d "$venv/source" "celery==$("$venv/bin/python" -c 'import celery; print(celery.__version__)')" >&2 || {
            say "pip could not download Celery's source package (see above)."
            exit 1
        }
        tar -xzf "$venv"/source/celery-*.tar.gz -C "$venv/source" --strip-components 1
    fi
    cp "$requirements" "$venv/requirements.txt"
}

for name in "${names[@]}"; do
    ready "$name" || make_environment "$name"
done
say "ready: $("$root/.build/venv/bin/celery" --version)"
