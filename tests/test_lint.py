"""The workflow with the default configuration has nothing that Snakemake warns of."""

from pipeline import ROOT, snakemake


def test_snakemake_finds_nothing_to_warn_of(tmp_path):
    result = snakemake(tmp_path, "--lint", config=(ROOT / "config.yaml",))
    assert result.returncode == 0, result.stderr
