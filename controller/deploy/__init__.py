"""What a cluster is like, and what is done to it.

client      the one place that talks to the API server: `objects`, `faults`, an `open_watch`
watching    one resource, listed once and then watched; `keeping`: and kept as it is
discovery   the arms as the cluster has them: `found`, `cache`, `arm_services`
news        what of it the log is told
policies    which RolloutPolicy objects are in force: `held`, `manifests`
target      the doors: orders in, arms out. Behind them, `discoveries` of several kinds:
kubernetes  Deployments, by the patches of `plan`
gateway     an HTTPRoute, by `routes`
kserve      an InferenceService, by `inference`
webhook     whoever changes the cluster instead
carrying    splits that objects carry
claims      whose a field is: `fields`
chronicle   what is said of each object: `status`, `events`, told by the `reporter`
lease       who leads
checks      what `understudy doctor` looks at
words       labels, annotations and names
"""
