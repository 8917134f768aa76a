#!/bin/bash
# What the docs say of the tree: every part has a page that names it in its title (initialisations: in a table) and
# its papers, and has a row for each of its options with the default of today, or links to a page that does; files
# that are shown whole are the tree's; links lead somewhere.
#   pages.sh QUIPU ROOT
set -eu
quipu=$1
cd "$2"
failed=0
fail() {
    echo "$*"
    failed=1
}
named() { grep -lE "^# (.*[ ,])?$1([ ,:]|$)" docs/parts/*.md; } # NAME: pages
linked() { sed -n 's/.*(\([a-z0-9]*\.md\)).*/\1/p' "$@" | sed 's,^,docs/parts/,' | sort -u; }

section='' part='' pages=''
while IFS= read -r line; do
    name=$(echo "$line" | awk '{ print $1 }')
    case $line in
    [a-z]*:) section=${line%:} ;;
    '      '*) # an option, whose default ends the line
        default=${line##*[}
        # shellcheck disable=SC2086
        grep -qF "| \`$name\` | ${default%]} |" $pages $(linked $pages) ||
            fail "docs/parts: no row of $section $part: | \`$name\` | ${default%]} |"
        ;;
    '  '*)
        part=$name pages=docs/parts/init.md
        if [ "$section" = init ]; then
            grep -qF "\`$name\`" $pages || fail "$pages: no \`$name\`"
        else
            pages=$(named "$name") || { fail "docs/parts: no page of $section $name"; pages=/dev/null; }
            # shellcheck disable=SC2086
            for source in $(echo "$line" | grep -oE '[0-9]{4}\.[0-9]{5}' || true); do
                grep -qF "$source" $pages || fail "docs/parts: $section $name: no arXiv:$source"
            done
        fi
        ;;
    esac
done < <("$quipu" list parts)
[ -n "$part" ] || fail "quipu list parts: nothing"

shown=0
for page in docs/add-*.md; do # a block of C that begins with a comment is a file that the text names
    while IFS= read -r file; do
        if ! awk '/^```c$/ { on = 1; next } /^```$/ { on = 0 } on' "$page" | grep -qF "$(head -1 "$file")"; then continue; fi
        shown=$((shown + 1))
        awk -v first="$(head -1 "$file" | cut -c1-60)" '
            /^```c$/ { getline; on = index($0, first) == 1 } /^```$/ { on = 0 } on' "$page" | diff -u - "$file" ||
            fail "$page: $file is another"
    done < <(grep -oE 'src/[a-z0-9_/]+\.c' "$page" | sort -u)
done
[ "$shown" -ge 3 ] || fail "docs/add-*.md: only $shown files are shown"

for page in README.md examples/README.md docs/*.md docs/parts/*.md; do
    for link in $(grep -oE '\]\([^)#]+' "$page" | cut -c3- | grep -v '^http' || true); do
        [ -e "$(dirname "$page")/$link" ] || fail "$page: no $link"
    done
done
exit $failed
