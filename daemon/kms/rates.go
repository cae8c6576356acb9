package kms

import (
	"golang.org/x/time/rate"

	"cmkd/socket/kmsapi"
)

// EveryOperation stands in [Limits.RequestRates] for each operation that has
// no rate of its own.
const EveryOperation = "*"

// rates are the request quotas, a token bucket for each operation that has one.
// A second's worth of calls may come at once.
// https://docs.aws.amazon.com/kms/latest/developerguide/throttling.html
type rates map[string]*rate.Limiter

func newRates(perSecond map[string]float64) rates {
	r := rates{}
	for _, op := range kmsapi.Operations {
		limit, ok := perSecond[op.Name]
		if !ok {
			limit, ok = perSecond[EveryOperation]
		}
		if ok {
			r[op.Name] = rate.NewLimiter(rate.Limit(limit), max(1, int(limit)))
		}
	}
	return r
}

// take counts one call, or refuses it.
func (r rates) take(operation string) error {
	if l, ok := r[operation]; ok && !l.Allow() {
		return kmsapi.Errorf(kmsapi.CodeThrottlingException, "Rate exceeded")
	}
	return nil
}
