// Does what the file names as JSON, one after the other, with the AWS Encryption SDK for
// JavaScript; golang/main.go is the same for Go:
//
//   node esdk.mjs JOBS
//
// A job has op (encrypt or decrypt), in and out (files), keys (ARNs; the first makes the
// data key, or any of them opens), context, and to encrypt suite (a number) and
// frameLength. KMS is where AWS_ENDPOINT_URL_KMS says.
import { createReadStream, createWriteStream, readFileSync } from "node:fs";
import { pipeline } from "node:stream/promises";
import { buildClient, CommitmentPolicy, getClient, KMS, KmsKeyringNode } from "@aws-crypto/client-node";

const clientProvider = getClient(KMS, { endpoint: process.env.AWS_ENDPOINT_URL_KMS });
const committing = buildClient(CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT);
const old = buildClient(CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT);

async function run(job) {
  const encrypting = job.op === "encrypt";
  const client = job.suite >= 0x0400 || !encrypting ? committing : old;
  const keyring = encrypting
    ? new KmsKeyringNode({ clientProvider, generatorKeyId: job.keys[0], keyIds: job.keys.slice(1) })
    : new KmsKeyringNode({ clientProvider, keyIds: job.keys });
  const stream = encrypting
    ? client.encryptStream(keyring, { suiteId: job.suite, frameLength: job.frameLength, encryptionContext: job.context })
    : client.decryptStream(keyring, { maxEncryptedDataKeys: 10 });
  let header;
  stream.on("MessageHeader", (h) => (header = h));
  await pipeline(createReadStream(job.in), stream, createWriteStream(job.out));
  if (encrypting) return;
  for (const [name, value] of Object.entries(job.context ?? {})) {
    if (header.encryptionContext[name] !== value) throw new Error(`${job.in}: encryption context ${name}`);
  }
}

for (const job of JSON.parse(readFileSync(process.argv[2]))) {
  await run(job).catch((err) => {
    throw new Error(`${job.op} ${job.in}`, { cause: err });
  });
}
