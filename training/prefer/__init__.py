"""Preference tuning after GRIT: KTO and DPO through TRL."""
