"""A real Kubernetes control plane for tests: v1.36 with RBAC, TLS and an audit log, ready in 3 s.

`make cluster` builds its programs once per machine (minutes); `make test` does so first. Tests of
this folder are the xdist group `cluster`, one process, one control plane for all of them:

    def test_x(cluster: ControlPlane, namespace: str) -> None:         # fixtures of conftest.py
        name = models.deploy(cluster.admin, namespace, "digits", "v1", replicas=2, port=8080)
        models.rolled_out(cluster.admin, namespace, name)

Other folders start their own: `with ControlPlane(tmp_path) as cluster:` (or `start(nodes=2)`,
`stop()`; tests of them belong into the group `cluster`, too).

**control_plane.ControlPlane**
    url, port, authority (path of the CA), folder (logs/*.log), admin (a Client), audit (an Audit)
    user(name, groups=()) -> User                       by client certificate; no rights by itself
    service_account(namespace, name, seconds=3600) -> User          made if missing; by a token
    grant(user, *rules, namespace="")                   rules as in a Role; "" is ClusterRole
    client(user) -> Client                              plain REST, documents are dicts
    api(user=None, agent="...") -> kubernetes.client.ApiClient      None is admin, everywhere
    kubeconfig(into, user=None, namespace="default") -> Path
    kubectl(*arguments, user=None, given="") -> str, helm(*arguments, user=None) -> str
    stop_api(), start_api()                             gone and back: same port, same data
    restart_controllers()                               as fresh, after the API server was away
                                                        (`namespace` does it before a test)
    pause_api(), resume_api()                           hangs: connections stay open, no answer
    expire_watches()                                    older watches and pages get 410 Gone
    compact() -> int                                    etcd's history alone
    install_crds("gateway" | "kserve")                  may be called twice
    add_node(name), check(), tools["kubectl"] -> Path

**client.path**(resource, namespace="", name="", subresource="") -> str, such as
`path("pods", namespace, "p", "status")`; knows the resources that stand in `client._API`.
**client.Client**: call(method, where, body=None, content_type=...) -> (status, document) whatever
the status; get, items(where, labels=""), create, patch (merge), patch_strategic, apply
(server-side), delete(where, grace_s=None): these raise `client.Refused` (code, document).

**audit.Audit**: mark() -> int; requests(since=0, user=None, agent=None, verb=None, resource=None,
is_so=...) -> list[Request]; permissions(user, since=0) -> {(group, resource, verb)}. A Request has
user, agent, verb, group, resource ("pods/status"), namespace, name, uri, code, is_allowed, reason,
received.

**models**: deployment(...), service(...) as documents; deploy(admin, namespace, model, version, *,
replicas=1, port=8080, annotations=None, pod_annotations=None) -> name creates both;
rolled_out(admin, namespace, name, timeout_s=30); pods(...), addresses(..., ready=True) of a model;
selector(model, version); set_ready(admin, namespace, pod, ready=...); is_ready(pod). Keys for
`pod_annotations`: POD_IP, READY_AFTER ("1500ms"), READINESS ("manual": unready until `set_ready`),
FLAP_EVERY ("300ms"), DELETE_AFTER ("2s", terminating so long), KUBELET (see kubelet.py).

**kubelet, network** run real servers (root needed): fixtures `kubelet` (for `namespace`, answers
`{"name": POD, "version": VERSION}`; `/tell/STATUS/DELAY_S` changes its answers) and `network`, or
`TinyKubelet(cluster, network, namespace, folder, command=says_its_name | digits({version: file}))`
as a context manager. Pods with `pod_annotations={models.KUBELET: "tiny"}` get an address
10.231.N.128/25 that this machine reaches, a process there on the Deployment's `port`, and are ready
while `/v2/health/ready` answers 200. A deleted pod serves on for DELETE_AFTER (0.5 s by default).
`kubelet.places()` -> {pod: Place(pod, model, version, address, port)}; `kubelet.kill(pod)` crashes
it; `network.gateway` is this machine as pods see it.

**tests.processes**: until(what, is_so, timeout_s=30, every_s=0.05), free_port(), Child.
"""
