#!/usr/bin/env bash
# The demonstration: a worker in a folder, six kinds of tasks, one of which never ends by itself.
# Usage: demo.sh CELERYBOX. Needs .build/tasks; no servers, no Python.
set -euo pipefail

celerybox=$(realpath "$1")
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mktemp -d "${TMPDIR:-/tmp}/celerybox-demo.XXXXXX")
worker=""
finish() {
    if [ -n "$worker" ]; then
        kill -TERM "$worker" 2>/dev/null || true
        wait "$worker" 2>/dev/null || true
    fi
    rm -rf "$folder"
}
trap finish EXIT
trap 'exit 130' INT TERM
cd "$folder"

bold=""
plain=""
if [ -t 1 ]; then bold=$'\e[1m'; plain=$'\e[0m'; fi
title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
shown() { printf '  $ celerybox %s\n' "$*"; }

title "1. The components in .build/tasks, and the tasks they declare"
shown tasks .build/tasks
"$celerybox" tasks "$root/.build/tasks" | grep -v '^  imports:' | sed 's/^/    /'

title "2. A worker. No broker is named, so it works in a folder: $folder"
shown worker --tasks .build/tasks -c 8
"$celerybox" worker --tasks "$root/.build/tasks" -c 8 >worker.out 2>worker.log &
worker=$!
deadline=$((SECONDS + 120))
until grep -qs 'ready\.' worker.log; do
    if ! kill -0 "$worker" 2>/dev/null || [ $SECONDS -ge $deadline ]; then
        echo "the worker did not start; its log:" >&2
        cat worker.log >&2
        exit 1
    fi
    sleep 0.1
done
grep 'ready\.' worker.log | tail -1 | sed 's/^/    /'

# call LABEL ARGUMENTS...: sends a task and remembers its id under the label.
declare -A id
call() {
    local label=$1
    shift
    id[$label]=$("$celerybox" call "$@")
    printf '  $ celerybox call'
    local word
    for word in "$@"; do
        if [[ $word == *[^a-zA-Z0-9._-]* ]]; then printf " '%s'" "$word"; else printf ' %s' "$word"; fi
    done
    printf '\n    id %s\n' "${id[$label]}"
}
# result LABEL: waits for the task's value, or for its error, which is no surprise here.
result() {
    local out status=0
    out=$("$celerybox" result "${id[$1]}" --timeout 60 2>&1) || status=$?
    printf '  %-46s ' "$2"
    if [ $status -eq 0 ]; then printf 'result %s\n' "$out"; else printf 'failed: %s\n' "$(grep -m1 . <<<"$out")"; fi
}

title "3. Tasks are sent, as any Celery client would send them"
call loop spin.forever --time-limit 2
call add arithmetic.add -a '[2, 40]'
call names arithmetic.add -k '{"x": 2, "y": 40}'
call sum arithmetic.tsum -a '[[1, 2, 3, 4]]'
call words text.count_words -a '["the quick brown fox jumps over the lazy dog"]'
call wrong arithmetic.add -a '[1, 2, 3]'
call unknown no.such.task

title "4. The results. The endless loop has two seconds; its neighbours do not wait for it"
result add "2 + 40"
result names "x=2, y=40"
result sum "1 + 2 + 3 + 4"
result words "words of a sentence"
result wrong "add(1, 2, 3): one argument too many"
result unknown "a task that nobody has"
result loop "the endless loop"

title "5. The worker ends warmly on TERM: it finishes what it has and takes nothing new"
kill -TERM "$worker"
status=0
wait "$worker" || status=$?
worker=""
echo "    exit status $status"
title "What to try next: make test, or README.md for a Python client and for a task of your own"
