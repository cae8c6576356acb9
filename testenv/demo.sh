#!/usr/bin/env bash
# A tour of cmkd on a throwaway token: every kind of key, used through the
# socket by the AWS CLI (or by cmkctl, where there is none), and checked with
# openssl. Leaves nothing behind. CMKD_BIN is the folder of the programs, if not
# bin; CMKD_DEMO_CLIENT=cmkctl does without the AWS CLI.
set -euo pipefail
cd "$(dirname "$0")/.."
from=${CMKD_BIN:-$PWD/bin}
work=$(mktemp -d /tmp/cmkd-demo.XXXXXX)
cd "$work"
# A daemon runs no plugin that another user could change, as in another user's clone.
bin=$work/bin
cp -r "$from" "$bin"

"$bin/cmkctl" dev --dir "$work/state" --env-file "$work/env" >"$work/dev.log" 2>&1 &
dev=$!
cleanup() {
	kill "$dev" 2>/dev/null || true
	wait "$dev" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
for _ in $(seq 200); do
	[ -s "$work/env" ] && break
	kill -0 "$dev" 2>/dev/null || { cat "$work/dev.log"; exit 1; }
	sleep 0.1
done
# shellcheck disable=SC1091
. "$work/env"

client=${CMKD_DEMO_CLIENT:-$(command -v aws >/dev/null && echo aws || echo cmkctl)}
title() { printf '\n\033[1m%s\033[0m\n' "$*"; }
say() { printf '  %s\n' "$*"; }

# kms OPERATION [NAME=TEXT | NAME=@FILE | NAME:=JSON]... prints the answer as JSON.
kms() {
	if [ "$client" = aws ]; then by_cli "$@"; else by_cmkctl "$@"; fi
}

kebab() { sed -E 's/([a-z0-9])([A-Z])/\1-\2/g' <<<"$1" | tr '[:upper:]' '[:lower:]'; }

by_cli() {
	local args=() operation
	operation=$(kebab "$1")
	shift
	for p in "$@"; do
		case $p in
		*:=*) args+=("--$(kebab "${p%%:=*}")" "${p#*:=}") ;;
		*=@*) args+=("--$(kebab "${p%%=*}")" "fileb://${p#*=@}") ;;
		*) args+=("--$(kebab "${p%%=*}")" "${p#*=}") ;;
		esac
	done
	aws --endpoint-url "$AWS_ENDPOINT_URL_KMS" --output json kms "$operation" "${args[@]}"
}

by_cmkctl() {
	local json='{}' operation=$1
	shift
	for p in "$@"; do
		case $p in
		*:=*) json=$(jq -c --arg k "${p%%:=*}" --argjson v "${p#*:=}" '.[$k]=$v' <<<"$json") ;;
		*=@*) json=$(jq -c --arg k "${p%%=*}" --arg v "$(base64 -w0 "${p#*=@}")" '.[$k]=$v' <<<"$json") ;;
		*) json=$(jq -c --arg k "${p%%=*}" --arg v "${p#*=}" '.[$k]=$v' <<<"$json") ;;
		esac
	done
	"$bin/cmkctl" call --socket "$CMKD_SOCKET" "$operation" "$json"
}

# field NAME of the answer on standard input; blob NAME FILE writes it decoded.
field() { jq -r ".$1"; }
blob() { jq -r ".$1" | base64 -d >"$2"; }

# create SPEC USAGE prints the ID of a new key.
create() { kms CreateKey KeySpec="$1" KeyUsage="$2" Description="demo $1" | field KeyMetadata.KeyId; }

# refused CODE OPERATION [PARAMETER]... fails unless the call does, with CODE.
refused() {
	local code=$1
	shift
	if kms "$@" >/dev/null 2>refusal || ! grep -q "$code" refusal; then
		echo "$1 was not refused with $code: $(cat refusal)" >&2
		exit 1
	fi
}

# public_key ID writes the public key of a pair to public.pem.
public_key() {
	kms GetPublicKey KeyId="$1" | blob PublicKey public.der
	openssl pkey -pubin -inform DER -in public.der -out public.pem
}

title "cmkd serves the AWS KMS API on $CMKD_SOCKET"
if [ "$client" = aws ]; then
	say "through the bridge at $AWS_ENDPOINT_URL_KMS, with $(aws --version 2>&1 | cut -d' ' -f1)"
else
	say "with cmkctl"
fi
printf 'attack at dawn' >message

title "1. A key, an alias, encryption with a context"
symmetric=$(create SYMMETRIC_DEFAULT ENCRYPT_DECRYPT)
say "key $symmetric: made in the token, it never leaves it"
kms CreateAlias AliasName=alias/demo TargetKeyId="$symmetric" >/dev/null
kms Encrypt KeyId=alias/demo Plaintext=@message EncryptionContext:='{"app":"demo"}' | blob CiphertextBlob sealed
say "'$(cat message)' became $(wc -c <sealed) bytes"
kms Decrypt CiphertextBlob=@sealed EncryptionContext:='{"app":"demo"}' | blob Plaintext opened
cmp message opened
say "and came back: '$(cat opened)'"
refused InvalidCiphertextException Decrypt CiphertextBlob=@sealed EncryptionContext:='{"app":"other"}'
say "with another context: InvalidCiphertextException"

title "2. Re-encryption under another key, inside of the token"
other=$(create SYMMETRIC_DEFAULT ENCRYPT_DECRYPT)
kms ReEncrypt CiphertextBlob=@sealed SourceEncryptionContext:='{"app":"demo"}' DestinationKeyId="$other" | blob CiphertextBlob moved
kms Decrypt CiphertextBlob=@moved KeyId="$other" | blob Plaintext opened
cmp message opened
say "moved from $symmetric to $other"

title "3. A data key that leaves wrapped only"
refused AccessDeniedException GenerateDataKey KeyId=alias/demo KeySpec=AES_256
say "GenerateDataKey in the clear: AccessDeniedException (plaintext_data_keys is false)"
kms GenerateDataKeyWithoutPlaintext KeyId=alias/demo KeySpec=AES_256 | blob CiphertextBlob datakey
say "wrapped data key: $(wc -c <datakey) bytes"
openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out recipient.pem 2>/dev/null ||
	openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out recipient.pem 2>/dev/null
openssl pkey -in recipient.pem -pubout -outform DER -out recipient.der
printf '{"CiphertextBlob":"%s","Recipient":{"AttestationDocument":"%s","KeyEncryptionAlgorithm":"RSAES_OAEP_SHA_1"}}' \
	"$(base64 -w0 datakey)" "$(base64 -w0 recipient.der)" |
	"$bin/cmkctl" call --socket "$CMKD_SOCKET" Decrypt - | blob CiphertextForRecipient envelope
openssl pkeyutl -decrypt -inkey recipient.pem -pkeyopt rsa_padding_mode:oaep -in envelope -out plain
say "opened with the recipient's own RSA key: $(wc -c <plain) bytes, never in the daemon's memory"

title "4. Signatures, checked by openssl"
for spec in ECC_NIST_P256:ECDSA_SHA_256:sha256 RSA_2048:RSASSA_PKCS1_V1_5_SHA_256:sha256 ECC_SECG_P256K1:ECDSA_SHA_256:sha256; do
	IFS=: read -r key_spec algorithm digest <<<"$spec"
	id=$(create "$key_spec" SIGN_VERIFY)
	kms Sign KeyId="$id" Message=@message SigningAlgorithm="$algorithm" | blob Signature signature
	public_key "$id"
	verified=$(openssl dgst "-$digest" -verify public.pem -signature signature message)
	say "$key_spec $algorithm: $verified"
	kms Verify KeyId="$id" Message=@message Signature=@signature SigningAlgorithm="$algorithm" >/dev/null
done
id=$(create ECC_NIST_EDWARDS25519 SIGN_VERIFY)
public_key "$id"
printf '{"KeyId":"%s","Message":"%s","SigningAlgorithm":"ED25519_SHA_512"}' "$id" "$(base64 -w0 message)" |
	"$bin/cmkctl" call --socket "$CMKD_SOCKET" Sign - | blob Signature signature
verified=$(openssl pkeyutl -verify -pubin -inkey public.pem -rawin -in message -sigfile signature)
say "ECC_NIST_EDWARDS25519 ED25519_SHA_512: $verified"

title "5. RSA encryption by openssl, decryption in the token"
id=$(create RSA_2048 ENCRYPT_DECRYPT)
public_key "$id"
openssl pkeyutl -encrypt -pubin -inkey public.pem -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256 -in message -out sealed.rsa
kms Decrypt KeyId="$id" CiphertextBlob=@sealed.rsa EncryptionAlgorithm=RSAES_OAEP_SHA_256 | blob Plaintext opened
cmp message opened
say "'$(cat opened)'"

title "6. Message authentication codes"
id=$(create HMAC_256 GENERATE_VERIFY_MAC)
kms GenerateMac KeyId="$id" Message=@message MacAlgorithm=HMAC_SHA_256 | blob Mac mac
kms VerifyMac KeyId="$id" Message=@message Mac=@mac MacAlgorithm=HMAC_SHA_256 >/dev/null
say "HMAC-SHA-256 of $(wc -c <mac) bytes made and verified"

title "7. What was recorded"
cat state/state/audit/*.jsonl >trail
say "$(wc -l <trail) calls in the audit trail, each on disk before its answer left; the last:"
tail -1 trail |
	jq -c '{eventTime, eventName, user: .userIdentity.arn, key: (.resources[0].ARN // null)}' | sed 's/^/  /'
echo
