"""What carries out the steps: Lightning's trainer and strategies, DeepSpeed's ZeRO, FSDP2, and what they were given."""
