package kmsapi

// parameterised is a pointer to a generated structure that a request contains.
type parameterised[T any] interface {
	*T
	AppendParameters(b []byte) []byte
}

func appendParameterList[T any, P parameterised[T]](b []byte, list []T) []byte {
	b = append(b, '[')
	for i := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = P(&list[i]).AppendParameters(b)
	}
	return append(b, ']')
}
