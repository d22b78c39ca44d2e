# PRESET=gpu is a recipe for one data-centre GPU. It has not been run on any yet. See docs/gpus-and-speed.md
DEVICE         = cuda
PREPARE        = --level 2 --train_tokens 10000000
OPTIONS        = --device $(DEVICE) --batch_size 64
DENSE_OPTIONS  = --compile  # DENSE_OPTIONS= turns it off
SHAPE          = --n_layer 8 --n_head 8 --n_embd 512 --block_size 256
D_FF           = 2048
SEED_STEPS     = 14000
EXPERT_STEPS   = 2200
FINETUNE_STEPS = 1540
LR_SEED        = 1e-3
LR_EXPERT      = 5e-4
LR_BTX         = 5e-4
LR_LARGE       = 1e-3
LR_DENSE       = 5e-4
LR_HALF        = 2.5e-4
LR_SU          = 2.5e-4
LR_CM          = 5e-4
