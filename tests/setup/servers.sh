#!/usr/bin/env bash
# What the tests start as private instances: redis-server, rabbitmq-server, and chromium with its driver, which looks at
# Flower; openssl makes certificates.
# Missing ones are installed with apt-get as root; otherwise one sentence says what to install. Nothing is left running.
set -euo pipefail

say() { printf 'servers: %s\n' "$*" >&2; }

# Debian keeps servers in /usr/sbin, which is not on every user's PATH.
PATH=$PATH:/usr/sbin:/sbin
missing=()
command -v redis-server >/dev/null || missing+=(redis-server)
command -v rabbitmq-server >/dev/null || missing+=(rabbitmq-server)
command -v openssl >/dev/null || missing+=(openssl)
# Ubuntu has no such packages; selenium fetches a browser there.
if ! grep -qs '^ID=ubuntu' /etc/os-release; then
    command -v chromium >/dev/null || missing+=(chromium)
    command -v chromedriver >/dev/null || missing+=(chromium-driver)
fi
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
    say "the tests need ${missing[*]}; please install them with this system's package manager."
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    say "the tests need ${missing[*]}; please run: sudo apt-get install --no-install-recommends ${missing[*]}"
    exit 1
fi

# The packages would start system services, which nothing here uses: 101 is policy-rc.d's word for "not allowed".
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 130' INT TERM
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
fi
say "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get -q update >&2
apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "${missing[@]}" >&2 || {
    say "apt-get could not install ${missing[*]} (see above); please install them by hand."
    exit 1
}
say "ready"
