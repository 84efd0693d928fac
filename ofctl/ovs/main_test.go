package ovs_test

import (
	"testing"

	"github.com/viasnet/vias/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
