#!/bin/bash
# The man page and the completions name every verb and every option that --help shows.
#   manual.sh QUIPU
set -eu
quipu=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
    echo "$*"
    exit 1
}
for form in man bash zsh fish; do "$quipu" manual $form >"$work/$form"; done
sed 's/\\-/-/g; s/\\f.//g' "$work/man" >"$work/plain"
verbs=$("$quipu" --help | sed -n 's/^  \([a-z]*\) .*/\1/p')
[ "$(echo "$verbs" | wc -w)" -ge 9 ]
for verb in $verbs; do
    grep -q "^\.SH \"QUIPU $verb\"" "$work/plain" || fail "man page: no $verb"
    for option in $("$quipu" "$verb" --help | grep -oP '^  (-\w,|   ) --\K[a-z0-9-]+'); do
        sed -n "/^quipu $verb/,/^.SH/p; /^.SH DESCRIPTION/,/^.SH \"/p" "$work/plain" | grep -q -e "--$option\b" ||
            fail "man page: no $verb --$option"
        sed -n "/^    $verb)/,/;;/p" "$work/bash" | grep -q -e "--$option\b" || fail "bash: no $verb --$option"
        sed -n "/^    $verb)/,/;;/p" "$work/zsh" | grep -q -e "--$option\b" || fail "zsh: no $verb --$option"
        grep -q "from $verb' -l $option " "$work/fish" || fail "fish: no $verb --$option"
    done
done

complete_in_bash() { # LAST WORD of the words given
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
    _quipu
    echo "${COMPREPLY[*]}"
}
# shellcheck disable=SC1091
. "$work/bash"
[ "$(complete_in_bash quipu tra)" = train ] || fail "bash: quipu tra"
[ "$(complete_in_bash quipu train --optim)" = --optimizer ] || fail "bash: quipu train --optim"
[ "$(complete_in_bash quipu bench gem)" = gemm ] || fail "bash: quipu bench gem"
[ "$(complete_in_bash quipu train --precision b)" = bf16 ] || fail "bash: quipu train --precision b"
[ -z "$(complete_in_bash quipu train README)" ] || fail "bash: a file is left to bash"

if command -v groff >/dev/null; then [ -z "$(groff -man -ww -z -Tutf8 "$work/man" 2>&1)" ] || fail "groff warns"; fi
if command -v zsh >/dev/null; then zsh -n "$work/zsh"; fi
if command -v fish >/dev/null; then fish -n "$work/fish"; fi
