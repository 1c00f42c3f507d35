// Modules of which only YAML files are taken; see tests/cluster/build.py.
module understudy.dev/tests/cluster/crds

go 1.26.0

require (
	github.com/kserve/kserve v0.19.0
	sigs.k8s.io/gateway-api v1.6.3
)
