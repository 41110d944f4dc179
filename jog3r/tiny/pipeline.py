"""Lets DiffusionPipeline.from_pretrained(..., custom_pipeline=...) find the pipeline (package jog3r)."""

from jog3r.pipelines.pipeline_jog3r import Jog3rPipeline

__all__ = ["Jog3rPipeline"]
