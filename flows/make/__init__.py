"""How triplets are made, without Prefect: plan, compose, judge, shard."""
