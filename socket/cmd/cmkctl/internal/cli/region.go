package cli

import (
	"cmp"
	"os"
)

// EnvironmentRegion is the Region of the environment, as the SDKs see it, empty
// if there is none: the daemon then takes its own.
func EnvironmentRegion() string {
	return cmp.Or(os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"))
}

// FirstRegion is the Region of new configurations, and of stock clients, which
// must have one.
const FirstRegion = "us-east-1"

// RegionUsage says which Region commands that name one call.
const RegionUsage = "Region of the key (default $AWS_REGION, $AWS_DEFAULT_REGION or the daemon's own)"

const (
	DefaultAccount = "000000000000"
	DefaultLabel   = "cmkd"
)
