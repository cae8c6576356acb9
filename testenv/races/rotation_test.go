package races

import (
	"slices"
	"testing"
	"testing/synctest"
)

// TestRotationUnderWay asks about a rotation while the token makes the new material:
// GetKeyRotationStatus names one on demand only, and both kinds refuse one on demand.
func TestRotationUnderWay(t *testing.T) {
	for name, onDemand := range map[string]bool{"RotateDue": false, "RotateKeyOnDemand": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, sceneKey())
				ops := w.scene.ops(w)
				rotation := ops[slices.IndexFunc(ops, func(o *op) bool { return o.name == name })]
				key := ""
				for k := range w.db.View().AllKeys() {
					if k.RotationPeriodDays == 90 {
						key = k.ID
					}
				}
				w.reset()
				rotation.run(w)
				stop := slices.Index(w.steps.names, "after CreateKey") + 1
				if stop == 0 {
					t.Fatalf("no key material is made: %v", w.steps.names)
				}
				in := map[string]any{"KeyId": key}
				w.meet(rotation, &op{name: "questions", run: func(w *world) (map[string]any, string) {
					status, code := w.call("GetKeyRotationStatus", home, in)
					if _, named := status["OnDemandRotationStartDate"]; code != "" || named != onDemand {
						t.Errorf("GetKeyRotationStatus: %q %v", code, status)
					}
					if _, code := w.call("RotateKeyOnDemand", home, in); code != "ConflictException" {
						t.Errorf("RotateKeyOnDemand: %q", code)
					}
					return nil, ""
				}}, stop)
				// Afterwards nothing mentions it.
				if status, code := w.call("GetKeyRotationStatus", home, in); code != "" || status["OnDemandRotationStartDate"] != nil {
					t.Errorf("afterwards: %q %v", code, status)
				}
			})
		})
	}
}
