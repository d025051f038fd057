from __future__ import annotations

from sae_platform_hello import CsvLogConfig

from sae_platform import LoggerConfig


def test_every_metric_becomes_a_line_of_the_runs_folder(tmp_path):
    logger = LoggerConfig(kind="csvlog").build()
    logger.start({}, tmp_path)
    logger.log(10, {"mse_loss": 0.5, "l0": 32.0})
    logger.finish("finished")
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["step,name,value", "10,mse_loss,0.5", "10,l0,32.0"]


def test_a_resumed_run_adds_to_the_file(tmp_path):
    for step in (1, 2):
        logger = CsvLogConfig(path="log.csv").build()
        logger.start({}, tmp_path)
        logger.log(step, {"l0": 1.0})
        logger.finish("interrupted")
    assert (tmp_path / "log.csv").read_text().splitlines() == ["step,name,value", "1,l0,1.0", "2,l0,1.0"]
