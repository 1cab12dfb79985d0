"""tfhf: from raw data in a bucket to a served model, with TensorFlow and Keras, under Hugging Face's class names.

The public classes are imported on first use (PEP 562), so that `import tfhf` costs nothing and pulls in no TensorFlow:

    from tfhf import WhisperForConditionalGeneration, WhisperProcessor
"""

import importlib

from tfhf.keras_classes import announce

__version__ = "0.1.0"

# Public name -> the module that defines it. A new model adds its classes here.
_EXPORTS = {
    "BertConfig": "tfhf.models.bert.config",
    "BertForSequenceClassification": "tfhf.models.bert.model",
    "BertModel": "tfhf.models.bert.model",
    "CTCLoss": "tfhf.losses.ctc",
    "EfficientNetLiteConfig": "tfhf.models.efficientnet_lite.config",
    "EfficientNetLiteForImageClassification": "tfhf.models.efficientnet_lite.model",
    "GPT2Config": "tfhf.models.gpt2.config",
    "GPT2ForSequenceClassification": "tfhf.models.gpt2.model",
    "GPT2LMHeadModel": "tfhf.models.gpt2.model",
    "GPT2Model": "tfhf.models.gpt2.model",
    "MonodepthConfig": "tfhf.models.monodepth.config",
    "MonodepthModel": "tfhf.models.monodepth.model",
    "ResNetConfig": "tfhf.models.resnet.config",
    "ResNetForImageClassification": "tfhf.models.resnet.model",
    "ResNetModel": "tfhf.models.resnet.model",
    "SRGANConfig": "tfhf.models.srgan.config",
    "SRGANDiscriminator": "tfhf.models.srgan.model",
    "SRGANGenerator": "tfhf.models.srgan.model",
    "UNetConfig": "tfhf.models.unet.config",
    "UNetForDepthEstimation": "tfhf.models.unet.model",
    "UNetForSemanticSegmentation": "tfhf.models.unet.model",
    "Wav2Vec2CTCTokenizer": "tfhf.models.wav2vec2.tokenizer",
    "Wav2Vec2Config": "tfhf.models.wav2vec2.config",
    "Wav2Vec2FeatureExtractor": "tfhf.models.wav2vec2.processor",
    "Wav2Vec2ForCTC": "tfhf.models.wav2vec2.model",
    "Wav2Vec2ForPreTraining": "tfhf.models.wav2vec2.pretraining",
    "Wav2Vec2ForSequenceClassification": "tfhf.models.wav2vec2.model",
    "Wav2Vec2Model": "tfhf.models.wav2vec2.model",
    "Wav2Vec2Processor": "tfhf.models.wav2vec2.processor",
    "WhisperConfig": "tfhf.models.whisper.config",
    "WhisperForConditionalGeneration": "tfhf.models.whisper.model",
    "WhisperProcessor": "tfhf.models.whisper.processor",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name):
    if name not in _EXPORTS:
        raise AttributeError(f"module 'tfhf' has no attribute {name!r}; it exports {', '.join(sorted(_EXPORTS))}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


announce(_EXPORTS)


def __dir__():
    return sorted(__all__)
