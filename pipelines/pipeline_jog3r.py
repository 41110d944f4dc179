"""The pipeline of JOG3R: text to video, text to video with cameras, video to cameras (arXiv 2501.01409, section 3).

Letters: B clips, C latent channels, F frames, H W pixels, h w latents, N tokens a frame, D width, P = F-1 pairs.
"""

import logging
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers import SchedulerMixin
from diffusers.utils import replace_example_docstring
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor
from torch import Tensor
from transformers import PreTrainedTokenizerBase, T5EncoderModel
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from jog3r.models.pointmap_head import Pointmap3DHead, Pointmap3DHeadOutput
from jog3r.models.registry import register_pipeline
from jog3r.models.transformer_jog3r import Jog3rTransformer3DModel
from jog3r.pipelines import reconstruction
from jog3r.pipelines.call_inputs import CallInputs, check_finite, check_generators, check_size
from jog3r.pipelines.callbacks import Callback, bind_callback, callback_inputs
from jog3r.pipelines.captions import CaptionBatch, embed_texts, null_captions
from jog3r.pipelines.geometry_steps import GeometryMixin
from jog3r.pipelines.latents import decode_frames, encode_frames, vae_scale_factor
from jog3r.pipelines.loading.checked_weights import Jog3rCheckpointMixin
from jog3r.pipelines.loading.lora import Jog3rLoraLoaderMixin
from jog3r.pipelines.loading.model_card import UNTRAINED_HEAD, is_untrained
from jog3r.pipelines.pipeline_output import Jog3rPipelineOutput
from jog3r.pipelines.sampling import SamplingMixin
from jog3r.pipelines.video_input import MAX_FRAMES, load_frames, resize

logger = logging.getLogger(__name__)

EXAMPLE_DOC_STRING = """
Examples:
    ```py
    >>> import torch
    >>> from jog3r import Jog3rPipeline, tiny_checkpoint

    >>> pipe = Jog3rPipeline.from_pretrained(tiny_checkpoint())
    >>> prompt = "a room with blue walls and a brown floor, with a red sofa, the camera moves forward"
    >>> result = pipe(prompt, num_inference_steps=30, generator=torch.Generator().manual_seed(0))
    >>> frames = result.frames[0]  # PIL images
    >>> result.poses.shape, result.pointmaps.shape  # camera-to-world; one world point a pixel
    (torch.Size([1, 16, 4, 4]), torch.Size([1, 16, 64, 64, 3]))

    >>> cameras = pipe(video=frames)  # the other way: cameras of a video
    >>> cameras.intrinsics.shape
    torch.Size([1, 16, 3, 3])
    ```
"""


class Jog3rPipeline(Jog3rCheckpointMixin, GeometryMixin, SamplingMixin, DiffusionPipeline, Jog3rLoraLoaderMixin):
    """Text to video with pointmaps and cameras, and video to cameras, from one transformer.

    Args:
        vae: image VAE, applied frame by frame. It, the transformer and the scheduler may be None to encode prompts alone.
        text_encoder, tokenizer: T5-type; None when embeddings are passed in.
        transformer: denoiser whose features the head reads.
        pointmap_head: from features to pointmaps; None for plain text to video.
        scheduler: any of diffusers' DDPM-type or flow-matching schedulers that fits how the transformer was trained.
    """

    model_cpu_offload_seq = "text_encoder->transformer->pointmap_head->vae"
    # without VAE, transformer or scheduler it only encodes prompts
    _optional_components = ["text_encoder", "tokenizer", "pointmap_head", "vae", "transformer", "scheduler"]
    _callback_tensor_inputs = ["latents", *CaptionBatch.names]
    _told_untrained = False
    fps: float = 8.0
    """Frames per second of the videos that it makes, for files."""

    def __init__(  # noqa: D107  # the class says it
        self,
        vae: AutoencoderKL | AutoencoderTiny | None,
        text_encoder: T5EncoderModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
        transformer: Jog3rTransformer3DModel | None,
        pointmap_head: Pointmap3DHead | None,
        scheduler: SchedulerMixin | None,
    ):
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            transformer=transformer,
            pointmap_head=pointmap_head,
            scheduler=scheduler,
        )
        self.vae_scale_factor = vae_scale_factor(vae) if vae is not None else 8
        self.video_processor = VideoProcessor(vae_scale_factor=self.vae_scale_factor)

    @property
    def token_size(self) -> int:
        """Side of a token in pixels; heights and widths are multiples of it."""
        return self.vae_scale_factor * self.transformer.config.patch_size

    @property
    def default_size(self) -> int:
        """Height and width that the model was made for, in pixels."""
        return self.transformer.config.sample_size * self.vae_scale_factor

    @property
    def default_reconstruction_timestep(self) -> float:
        """Noise level at which the features of a given video are read, in steps of the training schedule."""
        return round(reconstruction.DEFAULT_RECONSTRUCTION_LEVEL * reconstruction.num_train_timesteps(self.scheduler))

    @property
    def max_video_frames(self) -> int:
        """Longest video that is taken in."""
        return max(MAX_FRAMES, self.transformer.config.num_frames)

    def check_inputs(self, inputs: CallInputs) -> str:
        """Refuse what cannot work, before anything is computed; returns the task meant. See `CallInputs.check`."""
        return inputs.check(self)

    def output_size(self, num_frames: int | None, height: int | None, width: int | None) -> tuple[int, int, int]:
        """Frames, height and width to generate: what is given, else what the model was made for."""
        size = self.default_size
        return (
            self.transformer.config.num_frames if num_frames is None else num_frames,
            size if height is None else height,
            size if width is None else width,
        )

    def encode_prompt(  # noqa: PLR0913  # as every diffusers pipeline
        self,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None = None,
        do_classifier_free_guidance: bool = True,
        num_videos_per_prompt: int = 1,
        prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        clean_caption: bool = False,
        device: torch.device | None = None,
        max_sequence_length: int | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Texts to embeddings; embeddings that are given pass through.

        Without negative prompt the unconditional caption is the transformer's learned null caption, which attends to as many
        tokens as the prompt has, as in OpenSora's sampling and training. For all its tokens pass
        `negative_prompt_embeds=transformer.null_caption[None]`.

        Works without transformer, too: then the null caption is left to the call that gets the embeddings, and
        `max_sequence_length` (tokens; None: the transformer's) is the tokenizer's.

        Returns:
            prompt_embeds (B, L, D), prompt_attention_mask bool (B, L) or None for all tokens, and the same for the negative
            prompt, perhaps of another L, None without guidance; B = prompts x num_videos_per_prompt.

        Raises:
            ValueError: there is neither a transformer nor a tokenizer to tell the longest caption.
        """
        device = device or self._execution_device
        dtype = self.transformer.dtype if self.transformer is not None else getattr(self.text_encoder, "dtype", None)
        max_length = self._max_caption_length() if max_sequence_length is None else max_sequence_length
        if prompt_embeds is None:
            texts = [prompt] if isinstance(prompt, str) else list(prompt or [])
            prompt_embeds, prompt_attention_mask = embed_texts(
                self.tokenizer, self.text_encoder, texts, max_length, device, clean_caption
            )
        num_prompts, length, _ = prompt_embeds.shape

        if not do_classifier_free_guidance:
            negative_prompt_embeds = negative_prompt_attention_mask = None
        elif negative_prompt_embeds is None and negative_prompt is not None:
            texts = [negative_prompt] * num_prompts if isinstance(negative_prompt, str) else negative_prompt
            negative_prompt_embeds, negative_prompt_attention_mask = embed_texts(
                self.tokenizer, self.text_encoder, texts, max_length, device, clean_caption
            )
        elif negative_prompt_embeds is None and self.transformer is None:
            negative_prompt_attention_mask = None
        elif negative_prompt_embeds is None:
            negative_prompt_embeds = null_captions(self.transformer, num_prompts, device, length)
            negative_prompt_attention_mask = prompt_attention_mask
        elif negative_prompt_embeds is not None and negative_prompt_embeds.shape[0] == 1:
            negative_prompt_embeds = _repeat(negative_prompt_embeds, num_prompts)
            negative_prompt_attention_mask = _repeat(negative_prompt_attention_mask, num_prompts)

        repeats = num_videos_per_prompt
        prompt_embeds = _repeat(prompt_embeds.to(device, dtype), repeats)
        prompt_attention_mask = _repeat(prompt_attention_mask, repeats, device)
        if negative_prompt_embeds is not None:
            negative_prompt_embeds = _repeat(negative_prompt_embeds.to(device, dtype), repeats)
            negative_prompt_attention_mask = _repeat(negative_prompt_attention_mask, repeats, device)
        return prompt_embeds, prompt_attention_mask, negative_prompt_embeds, negative_prompt_attention_mask

    def _max_caption_length(self) -> int:
        if self.transformer is not None:
            return self.transformer.config.max_caption_length
        length = getattr(self.tokenizer, "model_max_length", VERY_LARGE_INTEGER)
        if length >= VERY_LARGE_INTEGER:
            raise ValueError("without transformer the longest caption is not known: pass max_sequence_length (OpenSora: 120)")
        return length

    def prepare_video(self, video: Any, height: int | None = None, width: int | None = None) -> Tensor:
        """A video in any accepted form to (B, F, 3, H, W) float32 in 0..1, stretched to height x width where these are given.

        Raises:
            ValueError: see `video_input.load_frames`; or the size is no multiple of the token size and none is given.
        """
        frames = load_frames(video, self.max_video_frames)
        if height is not None and width is not None:
            frames = resize(frames, height, width)
        check_size(frames.shape[-2], frames.shape[-1], self.token_size)
        return frames.to(self._execution_device)

    def encode_video(self, frames: Tensor, chunk_size: int | None = None) -> Tensor:
        """Frames (B, F, 3, H, W) in 0..1 to normalised latents (B, C, F, h, w) float32."""
        return encode_frames(self.vae, frames * 2 - 1, chunk_size)

    def extract_features(
        self, latents: Tensor, timestep: float, generator: torch.Generator | list[torch.Generator] | None = None
    ) -> Tensor:
        """Clean latents (B, C, F, h, w), noised to `timestep`, to the tapped features (B, F, N, D): one pass, empty caption."""
        check_generators(generator, latents.shape[0])
        noise = randn_tensor(latents.shape, generator=generator, device=latents.device, dtype=latents.dtype)
        noisy = reconstruction.noise_latents(self.scheduler, latents, noise, timestep)
        captions = null_captions(self.transformer, latents.shape[0], latents.device)
        with self._step_caches(False):
            output = self.transformer(
                noisy.to(self.transformer.dtype),
                timestep=torch.full((latents.shape[0],), float(timestep), device=latents.device),
                encoder_hidden_states=captions.to(self.transformer.dtype),
                features_only=True,
                attention_kwargs=self.attention_kwargs,
            )
        return output.features

    def reconstruct_pairs(
        self,
        latents: Tensor,
        timestep: float,
        generator: torch.Generator | list[torch.Generator] | None = None,
        both_directions: bool = False,
    ) -> tuple[Pointmap3DHeadOutput, Tensor]:
        """Clean latents (B, C, F, h, w) to the pointmaps of all pairs (0, f), and the features (B, F, N, D) they come from.

        With `both_directions` also of the pairs (F-1, f), from a second pass over the video backwards.
        """
        height, width = (self.vae_scale_factor * side for side in latents.shape[-2:])
        features = self.extract_features(latents, timestep, generator)
        pairs = self.predict_pointmaps(features, height, width)
        if both_directions:
            backwards = self.extract_features(latents.flip(2), timestep, generator)
            pairs = reconstruction.join_directions(pairs, self.predict_pointmaps(backwards, height, width))
        return pairs, features

    def decode_latents(self, latents: Tensor, output_type: str = "pil", chunk_size: int | None = None) -> Any:
        """Clean latents (B, C, F, h, w) to frames of `output_type`; "latent" gives them back.

        Raises:
            ValueError: the latents hold NaN or infinite values.
        """
        check_finite(latents, "the denoised latents")
        if output_type == "latent":
            return latents
        return self.video_processor.postprocess_video(decode_frames(self.vae, latents, chunk_size), output_type=output_type)

    @torch.no_grad()
    def through_vae(self, video: Any, output_type: str = "np") -> Any:
        """A video as the VAE gives it back: the best that a generated one can look like."""
        frames = self.decode_latents(self.encode_video(self.prepare_video(video)), output_type)
        self.maybe_free_model_hooks()
        return frames

    def predict_pointmaps(self, features: Tensor, height: int, width: int, pairs: Tensor | None = None) -> Pointmap3DHeadOutput:
        """Features (B, F, N, D) to the pointmaps of all pairs (1, f), or of the pairs (P, 2) given."""
        if is_untrained(self.pointmap_head) and not self._told_untrained:
            logger.warning("%s", UNTRAINED_HEAD)
            self._told_untrained = True
        return self.pointmap_head(features.to(self.pointmap_head.dtype), height, width, pairs)

    def present_video(self, frames: Tensor, latents: Tensor, output_type: str) -> Any:
        """The video given, (B, F, 3, H, W) in 0..1, as `output_type`; "latent" is its latents."""
        if output_type == "latent":
            return latents
        return self.video_processor.postprocess_video(frames.transpose(1, 2) * 2 - 1, output_type=output_type)

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(  # noqa: PLR0913  # as every diffusers pipeline
        self,
        prompt: str | list[str] | None = None,
        video: Any = None,
        task: str | None = None,
        negative_prompt: str | list[str] | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 30,
        guidance_scale: float = 2.5,
        reconstruction_timestep: float | None = None,
        registration: bool = True,
        num_videos_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = ["latents"],  # noqa: B006  # diffusers inspects this default
        clean_caption: bool = False,
        guidance_channels: int | None = None,
        eta: float = 0.0,
        attention_kwargs: dict[str, Any] | None = None,
        decode_chunk_size: int | None = None,
        registration_kwargs: dict[str, Any] | None = None,
        both_directions: bool = False,
    ) -> Jog3rPipelineOutput | tuple:
        """Generate a video, with or without its geometry, from a prompt; or find the geometry of a video.

        Args:
            prompt: one text or several; not empty.
            video: path, list of PIL images, or array/tensor (F, H, W, 3), (B, F, H, W, 3) or (B, F, 3, H, W), uint8 or 0..1.
            task: "t2v", "t2v+c" or "v2c"; None means "v2c" if a video is given, else "t2v+c", or "t2v" without a head.
            negative_prompt: what to steer away from; None is the learned null caption.
            num_frames, height, width: of the video to generate; None is what the model was made for. With a video, height and
                width stretch it to that size; without them its own must be a multiple of `token_size`.
            num_inference_steps: sampling steps; this and guidance_scale change nothing for "v2c", which takes one pass.
            guidance_scale: strength of classifier-free guidance; 1 or less switches it off. "t2v+c" reads its features from the
                pass with the null caption, as the head was trained; without guidance, or with a negative prompt, the features
                come from a pass with text, for which the head was not trained; the geometry is then less accurate.
            reconstruction_timestep: in steps of the training schedule. "v2c": noise put on the video (None: 2 % of them).
                "t2v+c": features are read at the last step at or below it (None: 5 %); the call is refused if there is none.
            registration: False returns the head's pointmaps as predicted, without poses, intrinsics and depth.
            num_videos_per_prompt: clips a prompt.
            generator: source of all randomness; a list has one a clip.
            latents (B, C, F, h, w): noise to start from instead of drawing it.
            prompt_embeds, prompt_attention_mask, negative_prompt_embeds, negative_prompt_attention_mask: instead of texts, as
                `encode_prompt` gives them; of any length up to the model's, the negative ones one a prompt or one for all.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: False gives a tuple of all fields that are not None.
            callback_on_step_end: called as (pipeline, step, timestep, tensors) after each step; may return changed tensors.
            callback_on_step_end_tensor_inputs: which tensors it gets, of `_callback_tensor_inputs`; None is none of them. The
                callbacks of `diffusers.callbacks` name theirs themselves.
            clean_caption: remove markup, addresses and odd punctuation from texts, as OpenSora does (needs ftfy, beautifulsoup4).
            guidance_channels: guide only the first so many latent channels (OpenSora: 3).
            eta: of DDIM.
            attention_kwargs: `{"scale": float}` scales LoRA layers.
            decode_chunk_size: frames that go through the VAE at once; None: 16, fewer of larger ones.
            registration_kwargs: for `register_pointmaps`, such as `{"method": "reference"}`; refused where nothing is registered.
            both_directions: "v2c": read the video backwards, too, and register both sets of pairs together. Every frame is then
                seen twice, from the first and from the last frame: more accurate for twice the time. Beyond the paper.

        Returns:
            `Jog3rPipelineOutput`.

        Raises:
            ValueError, TypeError: an input that cannot work; the message says what to change.

        Examples:
        """
        # 1. Check inputs
        callback_names = callback_inputs(callback_on_step_end, callback_on_step_end_tensor_inputs)
        inputs = CallInputs(
            prompt=prompt,
            video=video,
            task=task,
            negative_prompt=negative_prompt,
            num_frames=num_frames,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_channels=guidance_channels,
            reconstruction_timestep=reconstruction_timestep,
            num_videos_per_prompt=num_videos_per_prompt,
            generator=generator,
            latents=latents,
            prompt_embeds=prompt_embeds,
            prompt_attention_mask=prompt_attention_mask,
            negative_prompt_embeds=negative_prompt_embeds,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
            output_type=output_type,
            callback_on_step_end=callback_on_step_end,
            callback_inputs=callback_names,
            clean_caption=clean_caption,
            eta=eta,
            decode_chunk_size=decode_chunk_size,
            registration=registration,
            registration_kwargs=registration_kwargs,
            both_directions=both_directions,
        )
        task = self.check_inputs(inputs)
        with self._settings_of_call(guidance_scale, attention_kwargs):
            if task == "v2c":
                # 2. Encode the video, noise it a little, read the features in one pass, decode all pairs
                video_frames = self.prepare_video(video, height, width)
                height, width = video_frames.shape[-2:]
                latents = self.encode_video(video_frames, decode_chunk_size)
                if reconstruction_timestep is None:
                    reconstruction_timestep = self.default_reconstruction_timestep
                pairs, _ = self.reconstruct_pairs(latents, reconstruction_timestep, generator, both_directions)
                frames = self.present_video(video_frames, latents, output_type)
            else:
                # 2. Encode the prompt
                num_frames, height, width = self.output_size(num_frames, height, width)
                captions = CaptionBatch(
                    *self.encode_prompt(
                        prompt,
                        negative_prompt,
                        self.do_classifier_free_guidance,
                        num_videos_per_prompt,
                        prompt_embeds,
                        prompt_attention_mask,
                        negative_prompt_embeds,
                        negative_prompt_attention_mask,
                        clean_caption,
                    )
                )
                # 3. Prepare time steps and latents
                timesteps, tap_step = self.prepare_timesteps(num_inference_steps, task, reconstruction_timestep)
                reconstruction_timestep = None if tap_step is None else float(timesteps[tap_step])
                batch_size = captions.prompt_embeds.shape[0]
                latents = self.prepare_latents(batch_size, num_frames, height, width, generator, latents)
                # 4. Denoise; features are read on the way
                latents, features = self.denoise(
                    latents,
                    captions,
                    timesteps,
                    tap_step,
                    guidance_channels=guidance_channels,
                    step_kwargs=self.prepare_step_kwargs(generator, eta),
                    on_step_end=bind_callback(self, callback_on_step_end, callback_names, captions),
                )
                # 5. Decode pairs, where features were read (an interrupted call may end before the tap), and the video
                tapped = task == "t2v+c" and features is not None
                pairs = self.predict_pointmaps(features, height, width) if tapped else None
                frames = self.decode_latents(latents, output_type, decode_chunk_size)

            # 6. Geometry from the pairs
            geometry: dict[str, Any] = {}
            if pairs is not None:
                geometry = self.assemble_geometry(pairs, latents.shape[2], registration, registration_kwargs)
                geometry.update(pairwise=pairs, reconstruction_timestep=reconstruction_timestep)

        self.maybe_free_model_hooks()
        output = Jog3rPipelineOutput(frames=frames, **geometry)
        return output if return_dict else output.to_tuple()


def _repeat(values: Tensor | None, times: int, device: torch.device | None = None) -> Tensor | None:
    """Each row `times` times in a row; None stays None."""
    return None if values is None else values.to(device or values.device).repeat_interleave(times, dim=0)


register_pipeline(Jog3rPipeline)
