package operate

import (
	"bytes"
	"maps"
	"slices"
	"strconv"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// asText is the format in which the daemon answers.
const asText = "text"

// metricFamily is the metrics of one name.
type metricFamily struct {
	Name    string   `json:"name"`
	Help    string   `json:"help"`
	Type    string   `json:"type"`
	Metrics []metric `json:"metrics"`
}

// metric is one of them. Values are text, as in the answers of Prometheus: JSON has neither
// NaN nor infinity.
type metric struct {
	Labels  map[string]string `json:"labels"`
	Value   string            `json:"value,omitempty"`   // of counters and gauges
	Count   string            `json:"count,omitempty"`   // of histograms and summaries
	Sum     string            `json:"sum,omitempty"`     // of these, too
	Buckets map[string]string `json:"buckets,omitempty"` // counts of a histogram by upper bound
}

// readMetrics reads the text format, sorted by name.
func readMetrics(text []byte) ([]metricFamily, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	out := []metricFamily{}
	for _, name := range slices.Sorted(maps.Keys(families)) {
		f := families[name]
		family := metricFamily{Name: name, Help: f.GetHelp(), Type: strings.ToLower(f.GetType().String()), Metrics: []metric{}}
		for _, m := range f.GetMetric() {
			family.Metrics = append(family.Metrics, newMetric(m))
		}
		out = append(out, family)
	}
	return out, nil
}

func newMetric(m *dto.Metric) metric {
	out := metric{Labels: map[string]string{}}
	for _, l := range m.GetLabel() {
		out.Labels[l.GetName()] = l.GetValue()
	}
	switch {
	case m.Histogram != nil:
		out.Count, out.Sum = strconv.FormatUint(m.Histogram.GetSampleCount(), 10), number(m.Histogram.GetSampleSum())
		out.Buckets = map[string]string{}
		for _, b := range m.Histogram.GetBucket() {
			out.Buckets[number(b.GetUpperBound())] = strconv.FormatUint(b.GetCumulativeCount(), 10)
		}
	case m.Summary != nil:
		out.Count, out.Sum = strconv.FormatUint(m.Summary.GetSampleCount(), 10), number(m.Summary.GetSampleSum())
	case m.Counter != nil:
		out.Value = number(m.Counter.GetValue())
	case m.Gauge != nil:
		out.Value = number(m.Gauge.GetValue())
	default:
		out.Value = number(m.Untyped.GetValue())
	}
	return out
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
