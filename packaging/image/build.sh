#!/bin/sh
# Makes a container image of what `make build` has built, as a tar file in the layout of the
# OCI (https://github.com/opencontainers/image-spec, image-layout.md) which `docker load`,
# `podman load` and `skopeo copy oci-archive:` take. It needs no builder, and has no trace of
# the machine or the moment: two runs give the same bytes.
#
#   build.sh BIN OUT
#
# BIN is the folder of the programs, OUT the file. SOURCE_DATE_EPOCH is the time of all that
# is in it (that of the last commit), VERSION its version, SBOM a list of the modules that is at hand already.
#
# From scratch: beside the programs there are SoftHSM2, and the C library and others that the
# plugins and SoftHSM2 are linked with, as this machine has them. There is no shell and no
# package manager. Another PKCS#11 module comes from a volume or an image on top of this one.
set -eu
umask 022
export LC_ALL=C
bin=$(realpath "$1")
out=$(realpath -m "$2")
cd "$(dirname "$0")/../.."
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
VERSION=${VERSION:-$(git describe --tags --always --dirty)}
ARCH=$(go env GOARCH)
created=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root

# libraries FILE...: what the dynamic linker loads for them, where it looks for it.
libraries() {
	ldd "$@" | awk '$2 == "=>" { print $3 } $1 ~ "^/.*ld-linux" { print $1 }' | sort -u
}

# place FILE [PATH]: a copy at the path, below /usr, of which /bin and the others are links.
place() {
	case ${2-$1} in
	/lib* | /bin/*) to=$root/usr${2-$1} ;;
	*) to=$root${2-$1} ;;
	esac
	install -D -m "$(stat -L -c %a "$1")" "$1" "$to"
}

mkdir -p "$root/usr/bin" "$root/usr/lib" "$root/usr/lib64"
ln -s usr/bin usr/lib usr/lib64 "$root"
for program in cmkd cmkctl cmkd-symmetric cmkd-asymmetric cmkd-hmac; do
	place "$bin/$program" "/usr/libexec/cmkd/$program"
done
ln -s ../libexec/cmkd/cmkctl ../libexec/cmkd/cmkd "$root/usr/bin"
for module in ${SOFTHSM2_MODULE:-} /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so; do
	[ -e "$module" ] && break
done
util=$(command -v softhsm2-util)
place "$module" /usr/lib/softhsm/libsofthsm2.so
place "$util" /usr/bin/softhsm2-util
for library in $(libraries "$bin"/cmkd-* "$module" "$util"); do
	place "$library"
done
install -D -m 0644 LICENSE config.example.toml -t "$root/usr/share/doc/cmkd"
packaging/sbom.sh "$root/usr/share/doc/cmkd/cmkd.cdx.json"

# The daemon's user, its folders, and a place for SoftHSM2 and `cmkctl dev` to work in.
mkdir -p "$root/etc/cmkd" "$root/var/lib/cmkd" "$root/run/cmkd" "$root/tmp"
printf 'root:x:0:0::/:\ncmkd:x:65532:65532::/var/lib/cmkd:\n' >"$root/etc/passwd"
printf 'root:x:0:\ncmkd:x:65532:\n' >"$root/etc/group"
chmod 1777 "$root/tmp"
chmod 0700 "$root/etc/cmkd" "$root/var/lib/cmkd"

# The layer: sorted, and of root but for the daemon's folders.
own='etc/cmkd var/lib/cmkd run/cmkd'
pack() { tar --format=ustar --sort=name --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -C "$root" "$@"; }
(cd "$root" && find . -mindepth 1 | sed 's|^\./||' | sort) >"$work/all"
for folder in $own; do echo "$folder"; done | sort >"$work/own"
comm -23 "$work/all" "$work/own" >"$work/rest"
pack --owner=0 --group=0 --no-recursion -cf "$work/layer.tar" -T "$work/rest"
pack --owner=65532 --group=65532 --no-recursion -rf "$work/layer.tar" -T "$work/own"
layer=$(sha256sum <"$work/layer.tar" | cut -d' ' -f1)
gzip -n "$work/layer.tar"

# blob FILE: moves it where the layout has it; then $digest and $size are what it is called by.
image=$work/image
mkdir -p "$image/blobs/sha256"
blob() {
	digest=$(sha256sum <"$1" | cut -d' ' -f1) size=$(stat -c %s "$1")
	mv "$1" "$image/blobs/sha256/$digest"
}
blob "$work/layer.tar.gz"
layers='{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:'$digest'","size":'$size'}'
packed=$digest
cat >"$work/config" <<CONFIG
{"created":"$created","architecture":"$ARCH","os":"linux","config":{"User":"65532:65532","Env":["PATH=/usr/bin"],"Entrypoint":["/usr/libexec/cmkd/cmkd"],"Cmd":["-config","/etc/cmkd/config.toml"],"Volumes":{"/etc/cmkd":{},"/run/cmkd":{},"/var/lib/cmkd":{}},"WorkingDir":"/","Labels":{"org.opencontainers.image.title":"cmkd","org.opencontainers.image.version":"$VERSION","org.opencontainers.image.licenses":"Apache-2.0"}},"rootfs":{"type":"layers","diff_ids":["sha256:$layer"]},"history":[{"created":"$created","created_by":"packaging/image/build.sh"}]}
CONFIG
blob "$work/config"
config=$digest
echo '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:'"$digest"'","size":'"$size"'},"layers":['"$layers"']}' >"$work/manifest"
blob "$work/manifest"
echo '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:'"$digest"'","size":'"$size"',"platform":{"architecture":"'"$ARCH"'","os":"linux"},"annotations":{"org.opencontainers.image.ref.name":"'"$VERSION"'","io.containerd.image.name":"localhost/cmkd:'"$VERSION"'"}}]}' >"$image/index.json"
printf '{"imageLayoutVersion":"1.0.0"}' >"$image/oci-layout"
# For a `docker load` that does not know the layout.
echo '[{"Config":"blobs/sha256/'"$config"'","RepoTags":["localhost/cmkd:'"$VERSION"'"],"Layers":["blobs/sha256/'"$packed"'"]}]' >"$image/manifest.json"
tar --format=ustar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -C "$image" -cf "$work/out" blobs index.json manifest.json oci-layout
mkdir -p "$(dirname "$out")"
mv "$work/out" "$out"
