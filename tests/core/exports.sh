#!/bin/sh
# The shared library exports what the public headers declare, no more and no less.
#   exports.sh ROOT LIBRARY
set -eu
declared=$(cat "$1"/include/quipu/*.h | sed 's,/\*.*\*/,,' | tr '\n' ' ' | grep -oP 'QP_API[^;{]*?\b\Kqp_\w+(?=\s*[\(\[])' | sort -u)
exported=$(nm -D --defined-only "$2" | awk '$2 ~ /[TDBR]/ { print $3 }' | sort -u)
if [ "$declared" != "$exported" ]; then
    echo "< declared in a header only, > exported only:"
    printf '%s\n' "$declared" >"${TMPDIR:-/tmp}/declared.$$"
    printf '%s\n' "$exported" | diff "${TMPDIR:-/tmp}/declared.$$" - || true
    rm -f "${TMPDIR:-/tmp}/declared.$$"
    exit 1
fi
echo "1 passed, 0 failed"
