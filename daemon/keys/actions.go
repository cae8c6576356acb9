package keys

import (
	"strconv"

	"cmkd/backends"
	"cmkd/socket/kmsapi"
)

// SymmetricDefault is the key spec and the algorithm of symmetric encryption keys.
const SymmetricDefault = "SYMMETRIC_DEFAULT"

// Days that requests need not give.
const (
	RotationDays = 365 // between automatic rotations
	DeletionDays = 30  // before a key is deleted
)

// encryptsBy has the condition key of the algorithm, which is that of the key's kind if the
// request does not say.
func encryptsBy(member string, more ...Condition) []Condition {
	return append([]Condition{{Key: "kms:EncryptionAlgorithm", Member: member, Default: SymmetricDefault, Symmetric: true}}, more...)
}

// Actions are all actions of AWS KMS: its operations, with ReEncrypt as the two
// permissions that it needs. Adding an operation is one row here and one method in
// daemon/kms, whose request and answer the API model has.
// https://docs.aws.amazon.com/kms/latest/developerguide/kms-api-permissions-reference.html
var Actions = []Action{
	// Symmetric and RSA encryption, data keys.
	{
		Name: "Decrypt", Aliases: true, Refuses: cryptoOp, Uses: true, ReadOnly: true, Usage: backends.EncryptDecrypt, Context: "encryptionContext", Grant: OnUsage,
		Conditions: encryptsBy("encryptionAlgorithm"),
	},
	{
		Name: "Encrypt", Aliases: true, Refuses: cryptoOp, Uses: true, ReadOnly: true, Usage: backends.EncryptDecrypt, Context: "encryptionContext", Grant: OnUsage,
		Conditions: encryptsBy("encryptionAlgorithm"),
	},
	{
		Name: "GenerateDataKey", Aliases: true, Refuses: cryptoOp, Uses: true, ReadOnly: true, Usage: backends.EncryptDecrypt, Context: "encryptionContext", Grant: OnSymmetric,
		Conditions: encryptsBy(""),
	},
	{
		Name: "GenerateDataKeyWithoutPlaintext", Aliases: true, Refuses: cryptoOp, Uses: true, ReadOnly: true, Usage: backends.EncryptDecrypt, Context: "encryptionContext", Grant: OnSymmetric,
		Conditions: encryptsBy(""),
	},
	{
		Name: "GenerateDataKeyPair", Aliases: true, Refuses: cryptoOp, Uses: true, ReadOnly: true, Usage: backends.EncryptDecrypt, Context: "encryptionContext", Grant: OnSymmetric,
		Conditions: encryptsBy("", Condition{Key: "kms:DataKeyPairSpec", Member: "keyPairSpec"}),
	},
	{
		Name: "GenerateDataKeyPairWithoutPlaintext", Aliases: true, Refuses: cryptoOp, Uses: true, ReadOnly: true, Usage: backends.EncryptDecrypt, Context: "encryptionContext", Grant: OnSymmetric,
		Conditions: encryptsBy("", Condition{Key: "kms:DataKeyPairSpec", Member: "keyPairSpec"}),
	},
	{
		Name: "ReEncryptFrom", Of: "ReEncrypt", Aliases: true, Refuses: cryptoOp, Uses: true, ReadOnly: true, Usage: backends.EncryptDecrypt, Context: "sourceEncryptionContext", Grant: OnUsage,
		Conditions: encryptsBy("sourceEncryptionAlgorithm"),
	},
	{
		Name: "ReEncryptTo", Of: "ReEncrypt", Aliases: true, Refuses: cryptoOp, Uses: true, ReadOnly: true, Usage: backends.EncryptDecrypt, Context: "destinationEncryptionContext", Grant: OnUsage,
		Conditions: encryptsBy("destinationEncryptionAlgorithm"),
	},
	{Name: "GenerateRandom", ReadOnly: true, Believed: true},

	// Signatures, MACs, key agreement and encapsulation.
	{
		Name: "Sign", Aliases: true, Refuses: cryptoOp, Uses: true, ReadOnly: true, Usage: backends.SignVerify, Grant: OnUsage,
		Conditions: []Condition{
			{Key: "kms:SigningAlgorithm", Member: "signingAlgorithm"},
			{Key: "kms:MessageType", Member: "messageType", Default: string(kmsapi.MessageTypeRaw), Preset: true},
		},
	},
	{
		Name: "Verify", Aliases: true, Refuses: cryptoOp, Uses: true, ReadOnly: true, Usage: backends.SignVerify, Grant: OnUsage,
		Conditions: []Condition{
			{Key: "kms:SigningAlgorithm", Member: "signingAlgorithm"},
			{Key: "kms:MessageType", Member: "messageType", Default: string(kmsapi.MessageTypeRaw), Preset: true},
		},
	},
	{
		Name: "GenerateMac", Aliases: true, Refuses: cryptoOp, Uses: true, ReadOnly: true, Usage: backends.GenerateVerifyMAC, Grant: OnUsage,
		Conditions: []Condition{{Key: "kms:MacAlgorithm", Member: "macAlgorithm"}},
	},
	{
		Name: "VerifyMac", Aliases: true, Refuses: cryptoOp, Uses: true, ReadOnly: true, Usage: backends.GenerateVerifyMAC, Grant: OnUsage,
		Conditions: []Condition{{Key: "kms:MacAlgorithm", Member: "macAlgorithm"}},
	},
	{
		Name: "DeriveSharedSecret", Aliases: true, Refuses: cryptoOp, Uses: true, ReadOnly: true, Usage: backends.KeyAgreement, Grant: OnUsage,
		Conditions: []Condition{{Key: "kms:KeyAgreementAlgorithm", Member: "keyAgreementAlgorithm"}},
	},
	{
		Name: "Encapsulate", Aliases: true, Refuses: cryptoOp, Uses: true, ReadOnly: true, Usage: backends.EncapsulateDecapsulate, Grant: OnUsage,
		Conditions: []Condition{{Key: "kms:EncapsulationAlgorithm", Member: "encapsulationAlgorithm"}},
	},
	{
		Name: "Decapsulate", Aliases: true, Refuses: cryptoOp, Uses: true, ReadOnly: true, Usage: backends.EncapsulateDecapsulate, Grant: OnUsage,
		Conditions: []Condition{{Key: "kms:EncapsulationAlgorithm", Member: "encapsulationAlgorithm"}},
	},

	// Keys.
	{Name: "GetPublicKey", Aliases: true, Refuses: cryptoOp, ReadOnly: true, Believed: true, Grant: OnAsymmetric},
	{Name: "DescribeKey", Aliases: true, Refuses: anyState, ReadOnly: true, Grant: OnAny},
	{
		Name:       "CreateKey",
		Conditions: []Condition{{Key: "kms:BypassPolicyLockoutSafetyCheck", Member: "bypassPolicyLockoutSafetyCheck"}},
	},
	{Name: "ListKeys", ReadOnly: true},
	{Name: "UpdateKeyDescription", Refuses: manageOp},
	{Name: "EnableKey", Refuses: disableOp},
	{Name: "DisableKey", Refuses: disableOp},

	// Aliases.
	{Name: "CreateAlias", Refuses: manageOp},
	{Name: "UpdateAlias", Refuses: manageOp},
	{Name: "DeleteAlias", Refuses: anyState},
	{Name: "ListAliases", Refuses: anyState, ReadOnly: true},

	// Tags, key policies and grants.
	{Name: "TagResource", Refuses: manageOp},
	{Name: "UntagResource", Refuses: manageOp},
	{Name: "ListResourceTags", Refuses: anyState, ReadOnly: true},
	{Name: "GetKeyPolicy", Refuses: anyState, ReadOnly: true},
	{
		Name: "PutKeyPolicy", Refuses: anyState,
		Conditions: []Condition{{Key: "kms:BypassPolicyLockoutSafetyCheck", Member: "bypassPolicyLockoutSafetyCheck"}},
	},
	{Name: "ListKeyPolicies", Refuses: anyState, ReadOnly: true},
	{
		Name: "CreateGrant", Refuses: grantOp, Grant: OnAny,
		Conditions: []Condition{
			{Key: "kms:GrantIsForAWSResource", Default: "false"},
			{Key: "kms:GrantOperations", Member: "operations"},
			{Key: "kms:GranteePrincipal", Member: "granteePrincipal"},
			{Key: "kms:GranteeServicePrincipal", Member: "granteeServicePrincipal"},
			{Key: "kms:RetiringPrincipal", Member: "retiringPrincipal"},
			{Key: "kms:RetiringServicePrincipal", Member: "retiringServicePrincipal"},
			{Key: "kms:GrantConstraintType"},
			{Key: "kms:GrantConstraintSourceArn"},
		},
	},
	{
		Name: "RetireGrant", Refuses: anyState, Grant: OnAny,
		Conditions: []Condition{{Key: "kms:GrantConstraintType"}},
	},
	{
		Name: "RevokeGrant", Refuses: anyState,
		Conditions: []Condition{{Key: "kms:GrantIsForAWSResource", Default: "false"}},
	},
	{
		Name: "ListGrants", Refuses: anyState, ReadOnly: true,
		Conditions: []Condition{{Key: "kms:GrantIsForAWSResource", Default: "false"}},
	},
	{Name: "ListRetirableGrants", ReadOnly: true},

	// Life cycle: rotation, deletion, import, Regions, custom key stores.
	{
		Name: "EnableKeyRotation", Refuses: rotationOp,
		Conditions: []Condition{{Key: "kms:RotationPeriodInDays", Member: "rotationPeriodInDays", Default: strconv.Itoa(RotationDays), Preset: true}},
	},
	{Name: "DisableKeyRotation", Refuses: rotationOp},
	{Name: "GetKeyRotationStatus", Refuses: anyState, ReadOnly: true},
	{Name: "RotateKeyOnDemand", Refuses: cryptoOp},
	{Name: "ListKeyRotations", Refuses: anyState, ReadOnly: true},
	{
		Name: "ScheduleKeyDeletion", Refuses: "..P...G",
		Conditions: []Condition{{Key: "kms:ScheduleKeyDeletionPendingWindowInDays", Member: "pendingWindowInDays", Default: strconv.Itoa(DeletionDays), Preset: true}},
	},
	{Name: "CancelKeyDeletion", Refuses: "NN.NNNN"},
	{Name: "GetKeyLastUsage", Refuses: anyState, ReadOnly: true},
	{
		Name: "GetParametersForImport", Refuses: "..P.UCG", Origin: kmsapi.OriginTypeExternal, ReadOnly: true, Believed: true,
		Conditions: []Condition{
			{Key: "kms:WrappingAlgorithm", Member: "wrappingAlgorithm"},
			{Key: "kms:WrappingKeySpec", Member: "wrappingKeySpec"},
		},
	},
	{
		Name: "ImportKeyMaterial", Refuses: "..P.UC.", Origin: kmsapi.OriginTypeExternal,
		Conditions: []Condition{
			{Key: "kms:ExpirationModel", Member: "expirationModel"},
			{Key: "kms:ValidTo", Member: "validTo"},
		},
	},
	{Name: "DeleteImportedKeyMaterial", Refuses: ".....CG", Origin: kmsapi.OriginTypeExternal},
	{
		Name: "ReplicateKey", Refuses: ".DPIUCG",
		Conditions: []Condition{
			{Key: "kms:ReplicaRegion", Member: "replicaRegion"},
			{Key: "kms:BypassPolicyLockoutSafetyCheck", Member: "bypassPolicyLockoutSafetyCheck"},
		},
	},
	{
		Name: "UpdatePrimaryRegion", Refuses: ".DPIUC.",
		Conditions: []Condition{{Key: "kms:PrimaryRegion", Member: "primaryRegion"}},
	},
	{Name: "CreateCustomKeyStore"},
	{Name: "ConnectCustomKeyStore"},
	{Name: "DisconnectCustomKeyStore"},
	{Name: "DescribeCustomKeyStores", ReadOnly: true},
	{Name: "UpdateCustomKeyStore"},
	{Name: "DeleteCustomKeyStore"},
}
