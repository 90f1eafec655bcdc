import { engineContract } from '../../contract/engine.contract.ts'
import { huggingFaceContract } from '../../contract/engine-huggingface.contract.ts'

engineContract('onnx')
huggingFaceContract('onnx', 'llama')
huggingFaceContract('onnx', 'llama3-rope')
