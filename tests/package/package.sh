#!/bin/sh
# The Debian packages of a folder: what they hold runs from where it is unpacked, depends on what it
# needs, and is small.   package.sh FOLDER
set -eu
folder=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
    echo "$*"
    exit 1
}
for package in "$folder"/*.deb; do dpkg-deb -x "$package" "$work"; done
library=$(find "$work" -name 'libquipu.so.0.*.*' -type f)
quipu=$work/usr/bin/quipu

version=$(sed -n 's/^#define QP_VERSION "\(.*\)"/\1/p' "$work/usr/include/quipu/core.h")
[ "$("$quipu" --version)" = "quipu $version" ] || fail "the command says $("$quipu" --version), not quipu $version"
for file in "$library" "$quipu"; do
    ! ldd "$file" | grep 'not found' || fail "$file lacks libraries"
    ! readelf -S "$file" | grep -q '\.debug_info\|\.symtab' || fail "$file is not stripped"
done
[ "$(stat -c %s "$library")" -le 3000000 ] || fail "$library is larger than 3 MB"
for package in libquipu0.1 quipu; do
    depends=$(dpkg-deb -f "$folder"/"$package"_*.deb Depends)
    for needed in libc6 libjansson4 libpcre2-8-0 libutf8proc; do
        case $depends in
        *$needed*) ;;
        *) fail "$package does not depend on $needed: $depends" ;;
        esac
    done
done
dpkg-deb --ctrl-tarfile "$folder"/libquipu0.1_*.deb | tar -xO ./postinst | grep -q ldconfig || fail "installing runs no ldconfig"
for file in man/man1/quipu.1 bash-completion/completions/quipu zsh/vendor-completions/_quipu fish/vendor_completions.d/quipu.fish; do
    [ -s "$work/usr/share/$file" ] || fail "no $file"
done
