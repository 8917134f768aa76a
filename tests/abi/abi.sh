#!/bin/sh
# The binary interface against its record, tests/abi/quipu.abi: the prototype of every exported
# function, every constant of an enum, size and offsets of every public struct.
#   abi.sh ROOT COMPILER            fails and prints the difference
#   abi.sh ROOT COMPILER record     writes the record
# A test compares exported symbols with the headers (core/exports.sh), so headers suffice here.
set -eu
root=$1 compiler=$2 record=$1/tests/abi/quipu.abi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
echo '#include "quipu/quipu.h"' >all.c

# Prototypes: what the preprocessor leaves of our headers, one declaration a line.
"$compiler" -std=c17 -E -I"$root/include" all.c |
    awk '/^# /{ ours = $3 ~ /\/quipu\//; next } ours' | tr '\n\t' '  ' |
    sed 's/__attribute__ *((visibility("default")))/@/g; s/__attribute__ *((warn_unused_result))//g' |
    sed 's/__attribute__ *((format([^)]*)))//g; s/;/;\n/g' |
    sed -n 's/.*@ *//; t found; d; :found; s/  */ /g; s/ *;/;/; s/ *\([(),*]\) */\1/g; p' | sort >functions

# Layouts and constants: what the compiler tells debuggers.
"$compiler" -std=c17 -g -gdwarf-4 -fno-eliminate-unused-debug-types -I"$root/include" -c all.c -o all.o
readelf -wi all.o | awk '
    function value(line) { sub(/^[^:]*: /, "", line); sub(/.*\): /, "", line); sub(/[ \t]+$/, "", line); return line }
    / Abbrev Number: / {
        match($0, /<[0-9a-f]+>:/); at = substr($0, RSTART + 1, RLENGTH - 3)
        tag = $0; sub(/.*\(/, "", tag); sub(/\).*/, "", tag)
        depth = $0; sub(/^ *</, "", depth); sub(/>.*/, "", depth)
        if (depth == 1) { top = at; kind[at] = tag }
        else if (tag == "DW_TAG_member" || tag == "DW_TAG_enumerator") n[top]++
        next
    }
    depth == 1 && /DW_AT_name/ { name[at] = value($0) }
    depth == 1 && /DW_AT_byte_size/ { size[at] = value($0) }
    depth == 1 && /DW_AT_type/ { type[at] = value($0); gsub(/[<>]|0x/, "", type[at]) }
    depth == 2 && /DW_AT_name/ { member[top, n[top]] = value($0) }
    depth == 2 && /DW_AT_(data_member_location|const_value)/ { offset[top, n[top]] = value($0) + 0 }
    END {
        for (at in kind) {
            of = kind[at] == "DW_TAG_typedef" ? type[at] : at
            if (kind[at] == "DW_TAG_enumeration_type")
                for (i = 1; i <= n[at]; i++)
                    if (member[at, i] ~ /^QP_/) print "constant " member[at, i] " = " offset[at, i]
            if (kind[of] != "DW_TAG_structure_type" || name[at] !~ /^qp_/ || !(of in size)) continue
            line = "struct " name[at] " " size[of] " bytes:"
            for (i = 1; i <= n[of]; i++) line = line " " member[of, i] " " offset[of, i] (i < n[of] ? "," : "")
            print line
        }
    }' | sort -u >types

cat types functions >now
[ -s functions ] && grep -q '^struct' types
if [ "${3:-}" = record ]; then
    cp now "$record"
elif ! diff "$record" now; then
    echo "The binary interface differs from its record (<). A released version with other programs on it"
    echo "takes a new minor version (QP_VERSION). To record: ninja abi-record"
    exit 1
fi
