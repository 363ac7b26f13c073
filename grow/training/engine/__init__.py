"""The engine that carries out the steps: Lightning's Trainer and strategies, DeepSpeed's ZeRO, FSDP2, torch.compile."""
