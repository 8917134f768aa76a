#!/bin/sh
# A folder of src includes itself and what its row of layers.txt names, nothing else.
#   layers.sh ROOT
set -eu
cd "$1"
failed=0
for folder in src/*/; do
    folder=$(basename "$folder")
    allowed=$(sed -n "s/^$folder //p" tests/core/layers.txt)
    [ -n "$allowed" ] || { echo "src/$folder has no row in tests/core/layers.txt"; failed=1; }
    pattern=$(echo "$allowed" | tr ' ' '|')
    if grep -rnE '^ *# *include "' "src/$folder" | grep -vE "\"(quipu|$pattern)/"; then failed=1; fi
done
[ "$failed" = 0 ] && echo "1 passed, 0 failed"
exit "$failed"
