"""One file per loss: functions of tensors."""
