// Holds custom resources, a JSON array on the standard input, against the schemas of their CRDs, and prints what differs.
import { readFileSync } from "node:fs";

const PACKAGES = {
  "cert-manager.io": "cert-manager",
  "external-secrets.io": "external-secrets",
  "gateway.networking.k8s.io": "gateway-api",
  "keda.sh": "keda",
  "monitoring.coreos.com": "prometheus-operator",
};

for (const document of JSON.parse(readFileSync(0, "utf8"))) {
  const name = `${document.kind}/${document.metadata.name}`;
  const known = PACKAGES[document.apiVersion.split("/")[0]];
  const kinds = known && (await import(`@kubernetes-models/${known}/${document.apiVersion}`));
  if (!kinds?.[document.kind]) {
    console.log(`${name}: nothing is known of ${document.apiVersion}`);
    continue;
  }
  try {
    new kinds[document.kind](document).validate();
  } catch (error) {
    console.log(`${name}: ${error.message}`);
  }
}
