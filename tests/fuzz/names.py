"""The names of the targets, without importing what they fuzz."""

SOURCES = (
    *("annotations", "outlines", "pictures", "pictures-viewed", "pictures-loaded", "pictures-scored"),
    *("names", "exclusions", "decision-lists", "composites", "archives"),
)
RUNS = (
    *("plan", "plan-part", "manifest", "marker", "decisions", "history", "moves", "index", "index-bytes"),
    *("tar", "tar-in-run", "export-begun"),
)
NETWORKS = ("checkpoint-json", "fusion-json", "harmonizer-json", "weights", "training-state", "cases")
NAMES = (*SOURCES, *RUNS, *NETWORKS)
