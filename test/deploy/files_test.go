package deploy

import (
	"debug/elf"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// programLimit is the time after DRAIN_WINDOW after which the program of the document cuts
// off the remaining connections.
const programLimit = 15 * time.Second

// TestDocumentedTimes checks the numbers that belong together.
func TestDocumentedTimes(t *testing.T) {
	t.Parallel()
	require.Contains(t, listing(t, "main.go"), "window+15*time.Second")
	window := regexp.MustCompile(`"DRAIN_WINDOW", "(\w+)"`).FindStringSubmatch(listing(t, "main.go"))[1]
	most, err := time.ParseDuration(window)
	require.NoError(t, err)
	most += programLimit
	stop := regexp.MustCompile(`TimeoutStopSec=(\d+)`).FindStringSubmatch(listing(t, "hub.service"))[1]
	seconds, err := time.ParseDuration(stop + "s")
	require.NoError(t, err)
	require.Greater(t, seconds, most)
}

// TestUnit checks the unit with systemd's own program.
func TestUnit(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("no systemd-analyze")
	}
	binary, err := program()
	require.NoError(t, err)
	unit := write(t, t.TempDir(), "hub.service", listing(t, "hub.service", "/usr/local/bin/hub", binary))
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Empty(t, string(out))
}

// TestDockerfile checks the image's program, which program has built with the command of
// the Dockerfile: the final image has no C library.
func TestDockerfile(t *testing.T) {
	t.Parallel()
	binary, err := program()
	require.NoError(t, err)
	f, err := elf.Open(binary)
	require.NoError(t, err)
	defer f.Close()
	for _, p := range f.Progs {
		require.NotEqual(t, elf.PT_INTERP, p.Type, "the program is linked dynamically")
	}
	require.Contains(t, listing(t, "Dockerfile"), "USER nonroot\n")
}

// manifest decodes a manifest as the API server does: unknown fields are errors, and case
// counts.
func manifest(t *testing.T, document string, object any) {
	t.Helper()
	b, err := yaml.YAMLToJSONStrict([]byte(document))
	require.NoError(t, err)
	problems, err := json.UnmarshalStrict(b, object)
	require.NoError(t, err)
	require.Empty(t, problems)
}

func TestKubernetes(t *testing.T) {
	t.Parallel()
	documents := strings.Split(listing(t, "hub-kubernetes.yaml"), "\n---\n")
	require.Len(t, documents, 3)
	var deployment appsv1.Deployment
	manifest(t, documents[0], &deployment)
	var service corev1.Service
	manifest(t, documents[1], &service)
	var budget policyv1.PodDisruptionBudget
	manifest(t, documents[2], &budget)

	pod := deployment.Spec.Template
	labels := map[string]string{"app": "hub"}
	require.Equal(t, labels, pod.Labels)
	require.Equal(t, labels, deployment.Spec.Selector.MatchLabels)
	require.Equal(t, labels, service.Spec.Selector)
	require.Equal(t, labels, budget.Spec.Selector.MatchLabels)
	hub := pod.Spec.Containers[0]
	require.Equal(t, hub.Ports[0].Name, service.Spec.Ports[0].TargetPort.StrVal)
	require.Equal(t, "/ready", hub.ReadinessProbe.HTTPGet.Path)
	require.Equal(t, "/live", hub.LivenessProbe.HTTPGet.Path)
	for _, variable := range hub.Env {
		if variable.Name == "DRAIN_WINDOW" {
			window, err := time.ParseDuration(variable.Value)
			require.NoError(t, err)
			stop := time.Duration(hub.Lifecycle.PreStop.Sleep.Seconds) * time.Second
			require.Greater(t, time.Duration(*pod.Spec.TerminationGracePeriodSeconds)*time.Second, stop+window+programLimit)
			return
		}
	}
	require.FailNow(t, "no DRAIN_WINDOW")
}

// TestTraefik checks the form of the files, which are not run.
func TestTraefik(t *testing.T) {
	t.Parallel()
	var static struct {
		EntryPoints map[string]struct {
			Address string `json:"address"`
		} `json:"entryPoints"`
		Providers struct {
			File struct {
				Filename string `json:"filename"`
			} `json:"file"`
		} `json:"providers"`
	}
	require.NoError(t, yaml.UnmarshalStrict([]byte(listing(t, "traefik.yml")), &static))
	type service struct {
		LoadBalancer struct {
			PassHostHeader bool `json:"passHostHeader"`
			HealthCheck    struct {
				Path     string `json:"path"`
				Interval string `json:"interval"`
				Timeout  string `json:"timeout"`
			} `json:"healthCheck"`
			Servers []struct {
				URL string `json:"url"`
			} `json:"servers"`
		} `json:"loadBalancer"`
	}
	var dynamic struct {
		HTTP struct {
			Routers map[string]struct {
				Rule        string   `json:"rule"`
				EntryPoints []string `json:"entryPoints"`
				Service     string   `json:"service"`
				Middlewares []string `json:"middlewares"`
			} `json:"routers"`
			Middlewares map[string]struct {
				Retry struct {
					Attempts int `json:"attempts"`
				} `json:"retry"`
			} `json:"middlewares"`
			Services map[string]service `json:"services"`
		} `json:"http"`
	}
	require.NoError(t, yaml.UnmarshalStrict([]byte(listing(t, "hub.yml")), &dynamic))
	for name, router := range dynamic.HTTP.Routers {
		require.Contains(t, static.EntryPoints, router.EntryPoints[0])
		require.Contains(t, dynamic.HTTP.Services, router.Service, name)
		require.Contains(t, dynamic.HTTP.Middlewares, router.Middlewares[0], name)
		require.Equal(t, "/ready", dynamic.HTTP.Services[router.Service].LoadBalancer.HealthCheck.Path)
	}
}
