"""`/metrics`, parsed by prometheus_client and, if it is installed, checked by promtool."""

import shutil
import subprocess
import unittest

from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as text

from harness import Receiver, Server

OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
# The Accept header of Prometheus 3.
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


class Metrics(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.receiver = Receiver()
        hooks = f'[hooks]\npre_create = "{cls.receiver.url}"\nsecret = "{cls.receiver.secret}"\n'
        cls.server = Server("metrics", hooks + cls.receiver.config())
        cls.server.request("POST", "/files", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "5"})
        cls.server.request("GET", "/nothing")

    @classmethod
    def tearDownClass(cls):
        cls.server.dispose()
        cls.receiver.dispose()

    def page(self, accept):
        headers = {"Accept": accept} if accept else {}
        status, headers, body = self.server.request("GET", "/metrics", headers=headers)
        self.assertEqual(status, 200)
        return headers["content-type"], body.decode()

    def test_both_formats_are_read_and_say_the_same(self):
        samples = {}
        for accept, kind, parse in [
            (None, "text/plain; version=0.0.4; charset=utf-8", text),
            (PROMETHEUS, OPEN_METRICS, open_metrics),
        ]:
            content_type, page = self.page(accept)
            self.assertEqual(content_type, kind)
            families = list(parse(page))
            self.assertGreater(len(families), 40)
            for family in families:
                self.assertTrue(family.documentation, family.name)
                self.assertNotEqual(family.type, "unknown", family.name)
            found = {(sample.name, frozenset(sample.labels.items())) for family in families for sample in family.samples}
            # The series that the first scrape itself changed.
            samples[kind] = {(name, labels) for name, labels in found if name != "longshore_http_requests_total"}
        self.assertEqual(*samples.values())

    @unittest.skipUnless(shutil.which("promtool"), "promtool is not installed")
    def test_promtool_has_no_complaint(self):
        _, page = self.page(None)
        judged = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True)
        self.assertEqual((judged.returncode, judged.stdout + judged.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main()
