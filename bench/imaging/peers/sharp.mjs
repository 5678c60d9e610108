// sharp as its documentation has it; libvips finds its own threads.
import { createInterface } from 'node:readline'
import { createRequire } from 'node:module'
import { mkdirSync } from 'node:fs'

const [text, environment] = process.argv.slice(2)
const work = JSON.parse(text)
const sharp = createRequire(environment)('sharp')
// The same file comes many times; what was decoded once is to be decoded again.
sharp.cache(false)
mkdirSync(work.output, { recursive: true })

async function one(index) {
  let image = sharp(work.files[index])
  if (work.mode !== 'keep') {
    const fit = work.mode === 'cover' ? 'cover' : 'inside'
    image = image.resize(work.width, work.height, { fit, withoutEnlargement: true })
  }
  await image.toFormat(work.format, { quality: work.quality }).toFile(`${work.output}/${index}.${work.format}`)
}

const all = (indexes) => Promise.all(indexes.map(one))

await all([...work.files.keys()].slice(0, 2))
console.log('ready')
createInterface({ input: process.stdin }).once('line', async () => {
  await all([...work.files.keys()])
  console.log('done')
  process.exit(0)
})
