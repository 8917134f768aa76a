#!/bin/sh
# Each public header by itself, pedantically, with each compiler that is here, as C and as C++.
#   headers.sh ROOT COMPILER...
set -eu
root=$1
shift
cd "$root"
for compiler in "$@"; do
    case $compiler in
    *++*) language=c++ standards="c++11 c++14 c++17 c++20" ;;
    *) language=c standards="c11 c17 c2x" ;;
    esac
    for header in include/quipu/*.h; do
        for standard in $standards; do
            printf '#include "%s"\nqp_tensor none(void);\nqp_tensor none(void) { return QP_NONE; }\n' "$header" |
                "$compiler" -std=$standard -Wall -Wextra -Wpedantic -Werror -fsyntax-only -I. -x $language -
        done
    done
    [ $language = c ] || for standard in c++17 c++20; do
        echo '#include "include/quipu/quipu.hpp"' |
            "$compiler" -std=$standard -Wall -Wextra -Wpedantic -Werror -fsyntax-only -I. -x c++ -
    done
done
